/** The messages of a conversation, the newest at the end, older ones fetched as one goes up. */

import { path } from "../core/api.js";
import { useApp, usePhrases } from "../core/app.js";
import { classes, html, memo, useEffect, useMemo, useRef, useState } from "../core/html.js";
import { usePages } from "../core/pages.js";
import { endedTurn } from "../core/past.js";
import { useStore } from "../core/store.js";
import { timeline } from "../core/timeline.js";
import { visible } from "../core/text.js";
import { Empty, Fault, Loading, Name, Time } from "../parts/basics.js";
import { Icon } from "../parts/icons.js";
import { TurnBody } from "../parts/turn.js";
import { VirtualList } from "../parts/virtual.js";
import { Heard } from "./exchange.js";

const PAGE = 100;

/** @param {{id: string, at: number}} props at: a message at which to end; 0 for the newest */
export function Messages({ id, at }) {
  const { api, scene } = useApp();
  const t = usePhrases();
  const turns = useRef(new Map());
  const pages = usePages(async (before) => {
    const from = before ?? (at ? at + 1 : undefined);
    const page = await api.get(path`/api/conversations/${id}/messages`, { trace: true, limit: PAGE, before: from });
    for (const turn of page.turns) turns.current.set(turn.id, turn);
    return { items: [...page.messages].reverse(), next: page.next };
  }, [id, at]);
  useNewer(scene, id, at ? null : pages, turns);
  const rows = useMemo(() => timeline([...pages.items].reverse(), turns.current), [pages.items]);

  if (!rows.length) {
    if (pages.problem) return html`<${Fault} problem=${pages.problem} />`;
    return pages.isBusy ? html`<${Loading} />` : html`<${Empty} title=${t("conversations.empty")} />`;
  }
  return html`<${VirtualList} rows=${rows} guess=${88} atEnd onStart=${pages.more} label=${t("conversations.one")} class="messages"
    draw=${(row) => html`<${Row} row=${row} isWanted=${at > 0 && row.message?.id === at} />`} />`;
}

/** When the live scene says that something was said here or a turn has ended, fetch what is new. */
function useNewer(scene, id, pages, turns) {
  const { api } = useApp();
  const { entries } = useStore(scene);
  const newest = entries.findLast((entry) => entry.kind === "exchange" && entry.conversation === id);
  const mark = newest ? `${newest.messages.at(-1)?.id} ${newest.turn} ${newest.outcome}` : "";
  const seen = useRef(mark);
  useEffect(() => {
    if (!pages || seen.current === mark) return;
    seen.current = mark;
    api.get(path`/api/conversations/${id}/messages`, { trace: true, limit: 20 }).then((page) => {
      for (const turn of page.turns) turns.current.set(turn.id, turn);
      const fresh = new Map(page.messages.map((message) => [message.id, message]));
      pages.change((items) => [...[...page.messages].reverse(), ...items.filter((message) => !fresh.has(message.id))]);
    }, () => {}); // it is fetched again with the next change
  }, [mark]);
}

const Row = memo(({ row, isWanted }) => {
  if (row.kind === "day") return html`<h3 class="day"><${Time} at=${row.at} style="day" /></h3>`;
  if (row.kind === "turn") return html`<${Turn} row=${row} />`;
  if (row.message.role === "user") {
    return html`<div class=${classes("said", isWanted && "wanted")}><${Heard} message=${row.message} /><${Time} at=${row.at} style="minute" /></div>`;
  }
  return html`<div class=${classes("said by-bot", isWanted && "wanted")} data-message=${row.message.id}><p class="reply" dir="auto">${visible(row.message.text)}</p><${Time} at=${row.at} style="minute" /></div>`;
});

/** What the bot did: its reply, and behind a button how it came to it. */
function Turn({ row }) {
  const { session } = useApp();
  const t = usePhrases();
  const { turn, message } = row;
  const [isOpen, setOpen] = useState(false);
  const bot = session.current.get()?.bot ?? "";
  const count = turn.recalls?.length ?? 0;
  return html`<div class="said by-bot" data-turn=${turn.id} data-outcome=${turn.outcome} data-message=${message?.id}>
    <div class="turn">
      <div class="turn-head"><${Name} of=${bot} /></div>
      <div class="turn-whole">
        ${turn.outcome !== "running" && html`<button type="button" class="fold" data-action="trace" aria-expanded=${isOpen} onClick=${() => setOpen(!isOpen)}><${Icon} name="right" size=${12} />
          <span>${count ? t("trace.recalls", { count }) : t("trace")}</span></button>`}
        ${drawnTurn(turn, isOpen)}
      </div>
    </div><${Time} at=${row.at} style="minute" />
  </div>`;
}

function drawnTurn(turn, isOpen) {
  if (turn.outcome === "running") return html`<${Writing} turn=${turn} />`;
  return isOpen ? html`<${TurnBody} turn=${endedTurn(turn)} />` : html`<${Brief} turn=${turn} />`;
}

/** As the live scene has it. */
function Writing({ turn }) {
  const { scene } = useApp();
  return html`<${TurnBody} turn=${useStore(scene).turns.get(turn.id) ?? endedTurn(turn)} />`;
}

function Brief({ turn }) {
  const t = usePhrases();
  return html`<p class="reply" dir="auto">${visible(turn.reply)}</p>
    ${turn.outcome !== "replied" && html`<footer class="turn-end"><span class=${`outcome ${turn.outcome}`}>${t(`outcome.${turn.outcome}`)}</span>${turn.error && html`<span class="turn-error" dir="auto">${visible(turn.error)}</span>`}</footer>`}`;
}
