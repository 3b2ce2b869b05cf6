/** One entry of the feed: what was said with the turn that answers it, or a note of what happened besides. */

import { useApp, usePhrases } from "../core/app.js";
import { path } from "../core/api.js";
import { classes, html, memo } from "../core/html.js";
import { link } from "../core/router.js";
import { useStore } from "../core/store.js";
import { visible } from "../core/text.js";
import { Button, ConversationName, Name, Time, scopeName } from "../parts/basics.js";
import { TurnBody } from "../parts/turn.js";

/** @param {{entry: object, rev: number, name?: string, isSame: boolean}} props rev: rises when the entry changes */
export const Entry = memo(({ entry, name, isSame }) => (entry.kind === "note"
  ? html`<${Note} entry=${entry} />` : html`<${Exchange} entry=${entry} name=${name} isSame=${isSame} />`));

function Exchange({ entry, name, isSame }) {
  const { session, api, toasts } = useApp();
  const t = usePhrases();
  const bot = useStore(session.current)?.bot ?? "";
  const isRunning = entry.outcome === "running";
  const isSilent = entry.outcome === "no_reply" && !entry.segments.length && !entry.actions.length;
  const stop = () => api.post(path`/api/conversations/${entry.conversation}/cancel`).catch(toasts.complain);
  return html`<article class=${classes("exchange", isSame && "same", isRunning && "running")} data-turn=${entry.turn ?? undefined} data-outcome=${entry.outcome || "waiting"}>
    <header class="exchange-head">
      <a href=${link("conversations", entry.conversation)}><${ConversationName} id=${entry.conversation} name=${name} /></a>
      <${Time} at=${entry.at} style="short" />
    </header>
    ${entry.messages.map((message) => html`<${Heard} key=${message.id} message=${message} />`)}
    ${isSilent && html`<p class="silence">${t("outcome.no_reply")}</p>`}
    ${entry.outcome !== "" && !isSilent && html`<div class="turn">
      <div class="turn-head"><${Name} of=${bot} /><span class="phase">${phase(t, entry)}</span>
        ${isRunning && session.may("chat") && html`<${Button} icon="stop" action="stop" kind="small" label=${t("stop")} onClick=${stop}>${t("stop")}<//>`}</div>
      <${TurnBody} turn=${entry} />
    </div>`}
  </article>`;
}

/** Something that somebody has said. */
export function Heard({ message }) {
  const t = usePhrases();
  const { id, sender, text, withdrawn } = message;
  return html`<div class=${classes("heard", withdrawn && "withdrawn")} data-message=${id}>
    <span class="heard-who"><${Name} of=${sender.name} fallback=${sender.id} /></span>
    <p class="heard-text" dir="auto">${visible(text)}${withdrawn && html` <em>${t("message.withdrawn")}</em>`}</p>
  </div>`;
}

function phase(t, entry) {
  if (entry.outcome !== "running") return "";
  const last = entry.segments.at(-1);
  if (!last) return t("phase.reading");
  return t(`phase.${last.kind}`);
}

function Note({ entry }) {
  const t = usePhrases();
  return html`<p class=${`note note-${entry.what.replace(".", "-")}`}>
    <span class="note-text">${noteText(t, entry)}${entry.ids?.length > 0 && entry.what !== "memory.forgotten" && html` ${entry.ids.slice(0, 6).map((id) => html`<a key=${id} class="note-link" href=${link("memories", id)}>${id}</a> `)}`}</span>
    <${Time} at=${entry.at} />
  </p>`;
}

function noteText(t, { what, ids, count, scope, release, bridge, run, status, reason }) {
  const whose = scope ? scopeName(t, scope) : "";
  switch (what) {
    case "release": return release ? t("note.release", { release }) : t("note.release.none");
    case "run": return t(`note.run.${run.state}`, { id: run.id });
    case "undelivered": return t("note.undelivered", { bridge: visible(bridge), status: t(`delivery.${status}`), reason: visible(reason) });
    case "bridge.on": case "bridge.off": return t(`note.${what}`, { bridge: visible(bridge) });
    default: return t(`note.${what}`, { count: count ?? ids?.length ?? 0, whose });
  }
}
