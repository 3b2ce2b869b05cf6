/** What the gate has found of a run: every measure before and after, beside what it asks for. */

import { path } from "../core/api.js";
import { useApp, usePhrases } from "../core/app.js";
import { formats } from "../core/format.js";
import { classes, html } from "../core/html.js";
import { useFetched } from "../core/pages.js";
import { Badge, Fault } from "../parts/basics.js";
import { Icon } from "../parts/icons.js";

const SHARES = [
  ["recall_at_1", "least"], ["recall_at_5"], ["exact", "least"], ["trigger_recall", "least"], ["trigger_precision", "least"],
  ["trigger_false", "low"],
];
const RISES = ["perplexity_rise", "perplexity_rise_beside"];
const RANKS = [[1, 1], [2, 2], [3, 5], [6, 10], [11, 50], [51, Infinity]];

/** @param {{run: object}} props */
export function Gate({ run }) {
  const { api } = useApp();
  const t = usePhrases();
  const { value: report, problem } = useFetched(() => api.get(path`/api/training/runs/${run.id}/report`), [run.id]);
  if (problem?.status === 404 || (!report && !problem)) return html`<section class="card"><h2>${t("gate")}</h2><p class="hint">${problem ? t("gate.none") : ""}</p></section>`;
  if (problem) return html`<section class="card"><${Fault} problem=${problem} /></section>`;
  const failed = new Set(report.faults.map((fault) => fault.measure));
  return html`<section class="card gate">
    <header class="card-head"><h2>${t("gate")}</h2><span class="hint">${t("training.run", { id: run.id })}</span><${Badge} kind=${report.passed ? "memory" : "bad"}>${t(report.passed ? "gate.passed" : "gate.refused")}<//>
      <a class="button small" href=${path`/api/training/runs/${run.id}/report.html`} target="_blank" rel="noopener"><${Icon} name="report" size=${15} /><span>${t("gate.report")}</span></a></header>
    <div class="measures" role="table" aria-label=${t("gate")}>
      <div class="measure measure-head" role="row"><span role="columnheader"><span class="visually-hidden">${t("gate.measure")}</span></span><span role="columnheader" class="measure-legend"><i class="dot-before"></i>${t("gate.before")} <i class="dot-after"></i>${t("gate.after")} <i class="tick"></i>${t("gate.bound")}</span><span role="columnheader" class="visually-hidden">${t("gate.values")}</span></div>
      ${SHARES.map(([name, kind]) => html`<${Measure} key=${name} name=${name} kind=${kind} report=${report} isFault=${failed.has(name)} />`)}
    </div>
    <dl class="facts compact">
      ${RISES.filter((name) => report.after[name] != null).map((name) => html`<div key=${name} class=${classes(failed.has(name) && "fault-fact")}><dt>${t(`measure.${name}`)}</dt><dd>${signed(report.after[name])} <small>≤ ${signed(report.thresholds.perplexity_rise)}</small></dd></div>`)}
      <div><dt>${t("gate.trigger")}</dt><dd>${t(`trigger.${report.trigger}`)}</dd></div>
      <div><dt>${t("gate.decodable")}</dt><dd>${t("gate.of", { some: report.decodable.length, all: report.memories })}</dd></div>
    </dl>
    <${Ranks} report=${report} />
  </section>`;
}

const signed = (share) => `${share > 0 ? "+" : ""}${(share * 100).toFixed(1)}%`;

function Measure({ name, kind, report, isFault }) {
  const t = usePhrases();
  const format = formats(t);
  const [before, after, bound] = [report.before[name], report.after[name], kind === "least" ? report.thresholds[name] : undefined];
  if (before == null && after == null) return null;
  const at = (share) => ({ left: `${share * 100}%` });
  const span = before != null && after != null ? { left: `${Math.min(before, after) * 100}%`, width: `${Math.abs(after - before) * 100}%` } : null;
  return html`<div class=${classes("measure", isFault && "failed")} role="row">
    <span role="rowheader" class="measure-name">${t(`measure.${name}`)}</span>
    <span role="cell" class="measure-track"><span class="visually-hidden">${bound != null ? t("gate.bound.said", { bound: format.share(bound) }) : ""}</span>
      ${span && html`<i class="span" style=${span}></i>`}${bound != null && html`<i class="tick" style=${at(bound)}></i>`}
      ${before != null && html`<i class="dot-before" style=${at(before)}></i>`}${after != null && html`<i class="dot-after" style=${at(after)}></i>`}</span>
    <span role="cell" class="measure-values"><small>${format.share(before, 1)}</small> <b>${format.share(after, 1)}</b></span>
  </div>`;
}

/** At which place the wanted memory was found, before and after. */
function Ranks({ report }) {
  const t = usePhrases();
  const [before, after] = [report.before.ranks ?? [], report.after.ranks ?? []];
  if (!after.length) return null;
  const share = (ranks, [low, high]) => ranks.filter((rank) => rank >= low && rank <= high).length / (ranks.length || 1);
  return html`<figure class="ranks"><figcaption>${t("gate.ranks", { count: after.length })}</figcaption>
    <div class="rank-bars" role="img" aria-label=${t("gate.ranks.said", { before: Math.round(share(before, RANKS[0]) * 100), after: Math.round(share(after, RANKS[0]) * 100) })}>
      ${RANKS.map((bin) => html`<div key=${bin[0]} class="rank-bin"><span class="rank-pair"><i class="bar-before" style=${{ height: `${share(before, bin) * 100}%` }}></i><i class="bar-after" style=${{ height: `${share(after, bin) * 100}%` }}></i></span>
        <small>${binName(bin)}</small></div>`)}
    </div></figure>`;
}

function binName([low, high]) {
  if (high === Infinity) return `>${low - 1}`;
  return low === high ? String(low) : `${low}–${high}`;
}
