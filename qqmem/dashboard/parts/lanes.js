/** What the ways of searching say of a memory, as one bar: as long as its score, in the parts that each of them has in it. */

import { usePhrases } from "../core/app.js";
import { formats } from "../core/format.js";
import { html } from "../core/html.js";

export const LANES = ["state", "text", "lexical"];

const strength = (lanes, lane) => Math.max(0, lanes?.[lane]?.strength ?? 0);

/**
 * Each lane's part of a bar, in percent of what the best memory's bar has.
 * @param {{score: number, lanes: Record<string, {strength: number}>}} found
 * @param {number} most the score that fills the bar
 * @returns {Record<string, number>}
 */
export function parts({ score, lanes }, most) {
  const whole = LANES.reduce((sum, lane) => sum + strength(lanes, lane), 0);
  const length = most > 0 ? Math.min(1, Math.max(0, score / most)) * 100 : 0;
  return Object.fromEntries(LANES.map((lane) => [lane, whole > 0 ? (strength(lanes, lane) / whole) * length : 0]));
}

/** @param {{found: object, most: number}} props found: with score and lanes */
export function LaneBar({ found, most }) {
  const t = usePhrases();
  const format = formats(t);
  const { lanes } = found;
  const said = LANES.filter((lane) => lanes?.[lane]).map((lane) => t("lane.said", {
    lane: t(`lane.${lane}`), rank: lanes[lane].rank, strength: format.number(lanes[lane].strength, 2),
    score: format.number(lanes[lane].score, 2),
  }));
  const widths = parts(found, most);
  return html`<span class="lanes" role="img" aria-label=${said.join("; ") || "–"} title=${said.join("\n")}>
    ${LANES.map((lane) => widths[lane] > 0 && html`<i key=${lane} class=${`lane ${lane}`} style=${{ width: `${widths[lane]}%` }}></i>`)}
  </span>`;
}

/** Which shade is which lane. */
export function LaneLegend() {
  const t = usePhrases();
  return html`<span class="lane-legend">${LANES.map((lane) =>
    html`<span key=${lane}><i class=${`lane ${lane}`}></i>${t(`lane.${lane}`)}</span>`)}</span>`;
}
