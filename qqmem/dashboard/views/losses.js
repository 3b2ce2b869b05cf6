/** How the losses of a run fall, a chart a stage. */

import { usePhrases } from "../core/app.js";
import { formats } from "../core/format.js";
import { html, useMemo } from "../core/html.js";
import { Chart } from "../parts/chart.js";

const SHADES = ["--accent", "--ink-2", "--hue-2", "--hue-3", "--hue-4", "--hue-5", "--hue-6"];

/** @param {{curves?: Map<string, object[]>, steps: Record<string, number>}} props steps: of the stage that goes on, where its axis ends */
export function Losses({ curves, steps }) {
  const shown = [...(curves ?? [])].filter(([, points]) => points.length > 1);
  if (!shown.length) return null;
  return html`<div class="losses">${shown.map(([stage, points]) => html`<${Stage} key=${stage} stage=${stage} points=${points} end=${steps[stage]} />`)}</div>`;
}

function Stage({ stage, points, end }) {
  const t = usePhrases();
  const format = formats(t);
  const { x, series } = useMemo(() => columns(points), [points]);
  const last = points.at(-1);
  const said = t("training.loss.said", { stage: t(`stage.${stage}`), from: format.number(series[0]?.values[0], 2), to: format.number(series[0]?.values.at(-1), 2), steps: last.step });
  const named = series.map((one) => ({ ...one, label: t.has(`loss.${one.name}`) ? t(`loss.${one.name}`) : one.name }));
  return html`<figure class="loss"><figcaption><strong>${t(`stage.${stage}`)}</strong>
      <span class="loss-legend">${named.map(({ name, label, shade, values }) => html`<span key=${name}><i class=${`dash ${shade.slice(2)}`}></i>${label} <b>${format.number(values.findLast((value) => value !== null), 2)}</b></span>`)}</span></figcaption>
    <${Chart} x=${x} series=${named} label=${said} end=${end} /></figure>`;
}

/** Columns of a chart: the total first, then its parts in the order in which they came. */
function columns(points) {
  const names = new Set(points.flatMap(({ loss }) => Object.keys(loss)));
  const sorted = [...names].sort((a, b) => (b === "total") - (a === "total"));
  return {
    x: points.map(({ step }) => step),
    series: sorted.slice(0, SHADES.length).map((name, at) => ({ name, shade: SHADES[at], values: points.map(({ loss }) => loss[name] ?? null) })),
  };
}
