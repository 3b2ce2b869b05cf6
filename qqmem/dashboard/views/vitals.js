/** The strip of figures: what is written and waits, how fast, and how soon. */

import { useApp, usePhrases } from "../core/app.js";
import { formats } from "../core/format.js";
import { html } from "../core/html.js";
import { link } from "../core/router.js";
import { useStore } from "../core/store.js";
import { median } from "../core/vitals.js";
import { visible } from "../core/text.js";
import { Spark } from "../parts/chart.js";

/** On top of Live. */
export function Vitals() {
  const { vitals } = useApp();
  const t = usePhrases();
  const format = formats(t);
  const { engine, beats, latencies, health, run, progress, release } = useStore(vitals);
  const first = median(latencies.map((timing) => timing.first_token));
  const total = median(latencies.map((timing) => timing.total));
  return html`<section class="vitals" aria-label=${t("vitals")}>
    <${Figure} label=${t("vitals.running")} value=${format.number(engine?.running)} />
    <${Figure} label=${t("vitals.waiting")} value=${format.number(engine?.waiting)} />
    <${Figure} label=${t("vitals.speed")} value=${format.number(engine?.tokens_s ?? 0, 1)} unit="token/s"><${Spark} values=${beats} /><//>
    <${Figure} label=${t("vitals.first")} value=${format.seconds(first)} />
    <${Figure} label=${t("vitals.total")} value=${format.seconds(total)} wide />
    ${run?.state === "running" && html`<a class="figure training" href=${link("training")}>
      <span class="figure-label">${t("vitals.training")}</span>
      <span class="figure-value">${t(`stage.${run.stage || "export"}`)} ${progress?.steps ? html`<small>${format.share(progress.step / progress.steps)}</small>` : ""}</span></a>`}
    <${Figure} label=${t("vitals.model")} value=${visible(health?.model ?? "")} text wide note=${release === undefined ? "" : release ? t("vitals.release", { release: t.has(`release.${release}`) ? t(`release.${release}`) : release }) : t("release.base")} />
    ${health && health.status !== "ok" && html`<p class="vitals-fault" role="alert">${t(`health.${health.status}`)} ${visible(health.reason ?? "")}</p>`}
  </section>`;
}

function Figure({ label, value, unit, note, wide, text, children }) {
  return html`<div class=${`figure${wide ? " wide" : ""}${text ? " textual" : ""}`}>
    <span class="figure-label">${label}</span>
    <span class="figure-value">${value}${unit && html`<small>${unit}</small>`}${note && html`<small>${note}</small>`}</span>
    ${children}
  </div>`;
}
