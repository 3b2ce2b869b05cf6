/** What the bot does about something that was said: it thinks, recalls, replies; or it is stopped, or stays silent. */

import { usePhrases } from "../core/app.js";
import { formats } from "../core/format.js";
import { classes, html, useState } from "../core/html.js";
import { visible } from "../core/text.js";
import { Badge } from "./basics.js";
import { Icon } from "./icons.js";
import { Recall } from "./recall.js";
import { Stream } from "./stream.js";

/**
 * @param {object} props
 * @param {object} props.turn an exchange of the scene
 * @param {any} [props.bot] its name
 */
export function TurnBody({ turn }) {
  const t = usePhrases();
  const isRunning = turn.outcome === "running";
  const last = turn.segments.length - 1;
  const isOver = turn.outcome === "superseded" || turn.outcome === "cancelled" || turn.outcome === "interrupted";
  const [isFolded, setFolded] = useState(false);
  const thinks = turn.segments.some(({ kind }) => kind === "think");
  return html`<div class=${classes("turn-body", isOver && "broken-off")}>
    ${thinks && html`<button type="button" class="fold" data-action="fold" aria-expanded=${!isFolded} onClick=${() => setFolded(!isFolded)}>
      <${Icon} name="right" size=${12} /><span>${t("thinking")}</span></button>`}
    ${turn.segments.map((segment, at) => (isFolded && segment.kind === "think" ? null
      : html`<${Segment} key=${at} kind=${segment.kind} text=${segment.text} recall=${segment.recall} isWriting=${isRunning && at === last} />`))}
    ${isRunning && last < 0 && html`<p class="waiting-dots" aria-hidden="true"><i></i><i></i><i></i></p>`}
    <${Actions} actions=${turn.actions} />
    <${TurnEnd} turn=${turn} />
  </div>`;
}

function Segment({ kind, text, recall, isWriting }) {
  if (kind === "recall") return html`<${Recall} recall=${recall} text=${text} isWriting=${isWriting} />`;
  return html`<${Stream} as="p" class=${kind} text=${text} isWriting=${isWriting} />`;
}

function Actions({ actions }) {
  const t = usePhrases();
  if (!actions?.length) return null;
  return html`<p class="turn-actions">${actions.map((action, at) => html`<${Badge} key=${at} kind="quiet">
    ${action.type === "POKE" ? t("action.poke", { user: visible(action.user_id ?? "") }) : t("action.like", { emoji: emoji(action.emoji_id) })}<//>`)}</p>`;
}

/** QQ numbers its older faces; above them the number is that of a Unicode character. */
const emoji = (id) => (id > 5000 && id <= 0x10ffff ? String.fromCodePoint(id) : `#${id}`);

function TurnEnd({ turn }) {
  const t = usePhrases();
  const format = formats(t);
  const { outcome, timing, usage, error } = turn;
  const plain = outcome === "replied" || outcome === "running" || outcome === "";
  if (outcome === "" || (outcome === "running" && !turn.n)) return null;
  return html`<footer class="turn-end">
    ${!plain && html`<span class=${`outcome ${outcome}`}>${t(`outcome.${outcome}`)}</span>`}
    ${error && html`<span class="turn-error" dir="auto">${visible(error.message)}</span>`}
    ${timing?.total > 0 && html`<span>${t("turn.first", { time: format.seconds(timing.first_token) })}</span>
      <span>${t("turn.total", { time: format.seconds(timing.total) })}</span>`}
    ${usage?.completion > 0 && html`<span>${t("turn.tokens", { count: usage.completion })}</span>`}
    ${usage?.prompt > 0 && html`<span title=${t("turn.cached.why", usage)}>${t("turn.cached", { share: format.share(usage.cached / usage.prompt) })}</span>`}
    ${outcome === "running" && html`<span>${t("turn.tokens", { count: turn.n })}</span>`}
  </footer>`;
}
