/** Training: the run that goes on, what the gate has measured, the releases, and the runs before. */

import { path } from "../core/api.js";
import { useApp, usePhrases } from "../core/app.js";
import { formats } from "../core/format.js";
import { classes, html, useEffect, useState } from "../core/html.js";
import { useFetched, usePages } from "../core/pages.js";
import { link } from "../core/router.js";
import { useStore } from "../core/store.js";
import { visible } from "../core/text.js";
import { addPast } from "../core/vitals.js";
import { Badge, Button, Empty, Fault, Time } from "../parts/basics.js";
import { Confirm } from "../parts/dialog.js";
import { Gate } from "./gate.js";
import { Losses } from "./losses.js";
import { Releases } from "./releases.js";

const STAGES = ["export", "stage1", "stage2", "gate", "publish", "swap", "mark"];

/** @param {{id: string}} props id: of the run that is looked at; the newest without one */
export function Training({ id }) {
  const { api, vitals } = useApp();
  const t = usePhrases();
  const live = useStore(vitals);
  const mark = live.run && `${live.run.id} ${live.run.state}`;
  const status = useFetched(() => api.get("/api/training/status"), [mark, live.release]);
  const runs = usePages(async (before) => {
    const page = await api.get("/api/training/runs", { limit: 50, before });
    return { items: page.runs, next: page.next };
  }, [mark]);
  const newest = live.run ?? status.value?.run;
  const run = id ? runs.items.find((one) => one.id === Number(id)) ?? newest : newest;
  const shown = run && newest?.id === run.id ? newest : run;
  const measured = shown?.state === "running" ? runs.items.find((one) => one.id < shown.id && one.release) : shown;
  return html`<div class="page training">
    <header class="view-head"><h1>${t("view.training")}</h1><${Controls} status=${status.value} isRunning=${newest?.state === "running"} run=${newest} /></header>
    <${Fault} problem=${status.problem ?? runs.problem} />
    ${shown ? html`<${RunCard} run=${shown} progress=${shown.state === "running" ? live.progress ?? status.value?.progress : null} curves=${live.curves.get(shown.id)} />`
      : html`<div class="card"><${Empty} title=${t("training.none")}>${t("training.none.hint")}<//></div>`}
    <div class="training-columns">
      <div>${measured && html`<${Gate} run=${measured} key=${`${measured.id} ${measured.state}`} />`}</div>
      <div><${Releases} mark=${`${mark} ${live.release}`} isRunning=${newest?.state === "running"} /><${Runs} pages=${runs} shown=${shown} /></div>
    </div>
  </div>`;
}

function Controls({ status, isRunning, run }) {
  const { api, session, toasts, vitals } = useApp();
  const t = usePhrases();
  const [isAsking, setAsking] = useState(false);
  async function start() {
    try {
      const started = await api.post("/api/training/trigger");
      vitals.get().run = started.run;
      vitals.touch();
    } catch (problem) {
      toasts.complain(problem);
    }
  }
  return html`<div class="view-actions">
    <span class="next-run">${status?.next_run ? html`${t("training.next")} <${Time} at=${status.next_run} style="full" />` : status && t("training.unscheduled")}</span>
    ${session.may("admin") && (isRunning
      ? html`<${Button} icon="stop" action="cancel-training" onClick=${() => setAsking(true)}>${t("training.cancel")}<//>`
      : html`<${Button} icon="play" kind="primary" action="train" onClick=${start}>${t("training.start")}<//>`)}
    ${isAsking && html`<${Confirm} title=${t("training.cancel.title", { id: run.id })} yes=${t("training.cancel")} act=${() => api.post("/api/training/cancel")} onClose=${() => setAsking(false)}>
      <p>${t("training.cancel.what")}</p><//>`}
  </div>`;
}

function RunCard({ run, progress, curves }) {
  const { api, vitals } = useApp();
  const t = usePhrases();
  const format = formats(t);
  const isRunning = run.state === "running";
  useEffect(() => {
    api.get(path`/api/training/runs/${run.id}/progress`).then(({ points }) => {
      if (!points.length) return;
      addPast(vitals.get(), run.id, points);
      vitals.touch();
    }, () => {}); // there are no curves then
  }, [run.id, isRunning]); // not every step is told live: at the end there are more
  const isHere = isRunning && progress?.stage === run.stage && progress.steps;
  return html`<section class="card run" data-run=${run.id} data-state=${run.state}>
    <header class="run-head"><h2>${t("training.run", { id: run.id })}</h2>
      <${Badge} kind=${runKind(run)}>${t(`run.${run.state}`)}<//>
      <span class="run-when"><${Time} at=${run.started_at} style="full" />${run.ended_at && html` · ${format.seconds((Date.parse(run.ended_at) - Date.parse(run.started_at)) / 1000)}`} · ${t(actorKey(run.actor))}</span></header>
    <ol class="stages" aria-label=${t("training.stages")}>${STAGES.map((stage, at) => html`<li key=${stage} class=${classes(...stageKinds(run, at))} aria-current=${isRunning && run.stage === stage ? "step" : undefined}><span>${t(`stage.${stage}`)}</span></li>`)}</ol>
    ${isHere && html`<div class="progress-line"><progress max=${progress.steps} value=${progress.step ?? 0} aria-label=${t("training.progress")}></progress>
      <span>${t("training.step", { step: progress.step, steps: progress.steps })}</span>
      ${progress.tokens_s && html`<span>${format.number(progress.tokens_s)} token/s</span>`}
      ${progress.left_s != null && html`<span>${t("training.left", { time: format.seconds(progress.left_s) })}</span>`}</div>`}
    ${run.error && html`<p class=${run.state === "refused" ? "run-error refused" : "run-error"} dir="auto">${visible(run.error)}</p>`}
    <${Losses} curves=${curves} steps=${isHere ? { [progress.stage]: progress.steps } : {}} />
  </section>`;
}

const actorKey = (actor) => (actor === "schedule" ? "actor.schedule" : "actor.hand");

/** Of a badge. */
export const runKind = ({ state }) => ({ done: "memory", running: "memory going-on", failed: "bad", refused: "bad" })[state] ?? "quiet";

function stageKinds(run, at) {
  const now = STAGES.indexOf(run.stage || "export");
  if (run.state === "done") return ["past"];
  if (at < now) return ["past"];
  return at === now ? [run.state === "running" ? "now" : "ended"] : [];
}

function Runs({ pages, shown }) {
  const t = usePhrases();
  const format = formats(t);
  if (!pages.items.length) return null;
  return html`<section class="card"><h2>${t("training.runs")}</h2>
    <ul class="rows">${pages.items.map((run) => html`<li key=${run.id} class="row" data-run=${run.id} data-state=${run.state}>
      <a href=${link("training", run.id)} aria-current=${shown?.id === run.id ? "true" : undefined}>${t("training.run", { id: run.id })}</a>
      <${Badge} kind=${runKind(run)}>${t(`run.${run.state}`)}<//>
      <span class="row-note">${run.metrics?.gate?.recall_at_1 != null && `r@1 ${format.share(run.metrics.gate.recall_at_1)}`}</span>
      <${Time} at=${run.started_at} /></li>`)}</ul>
    ${!pages.isWhole && html`<${Button} kind="small" action="more" onClick=${pages.more}>${t("more")}<//>`}</section>`;
}
