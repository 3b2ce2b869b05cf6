/** Memories below each other; what a search has found with the strength of each way of searching. */

import { useApp, usePhrases } from "../core/app.js";
import { classes, html } from "../core/html.js";
import { useAgain, usePages } from "../core/pages.js";
import { useStore } from "../core/store.js";
import { visible } from "../core/text.js";
import { Badge, Empty, Fault, Loading, Name, Time, placeName } from "../parts/basics.js";
import { Icon } from "../parts/icons.js";
import { LaneBar, LaneLegend } from "../parts/lanes.js";
import { VirtualList } from "../parts/virtual.js";

const FOUND = 50;

/** @param {{asked: object, open: number, to: Function}} props asked: q, scope, subject, state, kind */
export function MemoryList({ asked, open, to }) {
  const { api, vitals } = useApp();
  const t = usePhrases();
  const { q, scope, subject, state, kind } = asked;
  const pages = usePages(async (before) => {
    const query = q ? { q, scope, k: FOUND } : { scope, subject, state, kind, before, limit: 100 };
    const { memories, next } = await api.get("/api/memories", query);
    return { items: memories, next };
  }, [q, scope, subject, state, kind]);
  useAgain(useStore(vitals).memoriesAt, pages);

  if (!pages.items.length) {
    if (pages.problem) return html`<${Fault} problem=${pages.problem} />`;
    if (pages.isBusy) return html`<${Loading} />`;
    return html`<${Empty} title=${t(q ? "search.none" : "memories.none")}>${!q && t("memories.none.hint")}<//>`;
  }
  const most = q ? Math.max(...pages.items.map(({ score }) => score)) : 0;
  const rows = pages.items.map((memory) => ({ key: String(memory.id), memory }));
  return html`${q && html`<p class="list-note"><${LaneLegend} /></p>`}
    <${VirtualList} rows=${rows} guess=${76} onEnd=${pages.more} label=${t("view.memories")}
      draw=${({ memory }) => html`<${Row} memory=${memory} isOpen=${memory.id === open} href=${to({}, memory.id)} most=${most} />`} />`;
}

function Row({ memory, isOpen, href, most }) {
  const t = usePhrases();
  const { id, text, scope, state, kind, pinned, hits, lanes, fits, created_at, speaker_name, decodable } = memory;
  return html`<a class=${classes("list-row memory-row", state !== "searchable" && "past", fits === false && "unfit")} href=${href} data-memory=${id} aria-current=${isOpen ? "true" : undefined}>
    <span class="list-main">
      <span class="memory-text" dir="auto">${pinned && html`<${Icon} name="pin" size=${14} /><span class="visually-hidden">${t("memories.pinned")} </span>`}${visible(text)}</span>
      <span class="memory-about">${speaker_name && html`<${Name} of=${speaker_name} />`}<${Name} of=${placeName(t, scope)} />${kind === "message" && html`<span>${t("kind.message")}</span>`}
        ${hits > 0 && html`<span>${t("memories.hits", { count: hits })}</span>`}
        ${decodable && html`<${Badge} kind="memory">${t("memories.decodable")}<//>`}
        ${state !== "searchable" && html`<${Badge} kind="quiet">${t(`state.${state}`)}<//>`}</span>
    </span>
    <span class="list-side">${lanes ? html`<${LaneBar} found=${memory} most=${most} />${fits === false && html`<small>${t("recall.below")}</small>`}` : html`<${Time} at=${created_at} />`}</span>
  </a>`;
}
