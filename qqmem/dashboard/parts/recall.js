/** The moment of recall, in the place where it happened: what was thought, what could have come, what came, and how. */

import { useApp, usePhrases } from "../core/app.js";
import { formats } from "../core/format.js";
import { classes, html, memo, useState } from "../core/html.js";
import { link } from "../core/router.js";
import { useStore } from "../core/store.js";
import { visible } from "../core/text.js";
import { Badge } from "./basics.js";
import { Icon } from "./icons.js";
import { LaneBar, LaneLegend } from "./lanes.js";
import { Stream } from "./stream.js";

const [FEW, FEWER] = [4, 2];

/**
 * @param {object} props
 * @param {object | null} props.recall as the service tells it; null while the memory is being read
 * @param {string} props.text what came in so far
 * @param {boolean} props.isWriting
 */
export const Recall = memo(({ recall, text, isWriting }) => {
  const t = usePhrases();
  const mode = recall?.mode ?? "reading";
  return html`<section class=${classes("recall", `is-${mode}`)} data-recall data-mode=${recall?.mode} aria-label=${t("recall")}>
    <header class="recall-head">
      <span class="recall-node"><${Icon} name="recall" size=${15} /></span>
      <strong>${t("recall")}</strong>
      ${recall?.cue && html`<q class="recall-cue" dir="auto" title=${t("recall.cue")}>${visible(lastSentence(recall.cue))}</q>`}
      <${Badge} kind=${recall?.chosen ? "memory" : "quiet"} title=${t(`recall.${mode}.why`)}>${t(`recall.${mode}`)}<//>
    </header>
    ${recall?.candidates.length > 0 && html`<${Candidates} recall=${recall} />`}
    <${Came} recall=${recall} text=${text} isWriting=${isWriting} />
  </section>`;
});

/** The whole cue stands above the recall, as what was thought. */
function lastSentence(cue) {
  return cue.trim().match(/[^。！？!?\n]*[。！？!?\s]*$/u)[0].trim() || cue.trim().slice(-40);
}

function Came({ recall, text, isWriting }) {
  const { recollections } = useApp();
  useStore(recollections.seen);
  const stored = recall?.chosen && !text ? recollections.get(recall.chosen)?.text : "";
  if (!text && !stored) return null;
  return html`<${Stream} as="blockquote" class="came" text=${text || stored} isWriting=${isWriting && !recall} />`;
}

function Candidates({ recall }) {
  const t = usePhrases();
  const [isWhole, setWhole] = useState(false);
  const sorted = recall.candidates;
  const few = recall.chosen ? FEW : FEWER;
  const most = Math.max(...sorted.map(({ score }) => score));
  const shown = isWhole ? sorted : sorted.filter(({ id }, at) => at < few || id === recall.chosen);
  const floor = shown.findIndex(({ fits }) => !fits);
  const rest = sorted.length - shown.length;
  return html`<div class="candidates-box"><div class="candidates-inner">
    <ol class="candidates">
      ${shown.map((candidate, at) => html`${at === floor && html`<li key="floor" class="floor" aria-hidden="true"><span>${t("recall.floor")}</span></li>`}
        <${Candidate} key=${candidate.id} candidate=${candidate} most=${most} isChosen=${candidate.id === recall.chosen} />`)}
    </ol>
    <div class="candidates-foot">
      <${LaneLegend} />
      ${(rest > 0 || isWhole) && sorted.length > few && html`<button type="button" class="text-button" aria-expanded=${isWhole} onClick=${() => setWhole(!isWhole)}>
        ${isWhole ? t("recall.fewer") : t("recall.more", { count: rest })}</button>`}
    </div>
  </div></div>`;
}

function Candidate({ candidate, most, isChosen }) {
  const t = usePhrases();
  const { recollections } = useApp();
  useStore(recollections.seen);
  const { id, score, fits } = candidate;
  const memory = recollections.get(id);
  const text = memory ? visible(memory.text) : memory === null ? t("recall.gone") : "";
  return html`<li class=${classes("candidate", isChosen && "chosen", !fits && "unfit")} data-memory=${id} data-chosen=${isChosen || undefined}>
    <a href=${link("memories", id)} class="candidate-text" dir="auto">
      <span class="candidate-id">${id}</span>${isChosen && html`<span class="visually-hidden">${t("recall.chosen")} </span>`}<span class="clamp">${text}</span></a>
    <${LaneBar} found=${candidate} most=${most} />
    <span class="candidate-score" title=${t(fits ? "recall.fits" : "recall.unfit")}>${formats(t).number(score, 2)}${!fits && html`<span class="visually-hidden">${t("recall.below")}</span>`}</span>
  </li>`;
}
