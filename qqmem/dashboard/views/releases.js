/** Releases: what was published and is kept; which serves; and the way back. */

import { useApp, usePhrases } from "../core/app.js";
import { formats } from "../core/format.js";
import { classes, html, useState } from "../core/html.js";
import { useFetched } from "../core/pages.js";
import { visible } from "../core/text.js";
import { Badge, Button, Fault, Time } from "../parts/basics.js";
import { Confirm } from "../parts/dialog.js";

const BASE = "base";

/** @param {{mark: string, isRunning: boolean}} props mark: changes when the list may have */
export function Releases({ mark, isRunning }) {
  const { api, session } = useApp();
  const t = usePhrases();
  const [asked, setAsked] = useState("");
  const { value, problem, again } = useFetched(() => api.get("/api/training/releases"), [mark]);
  if (!value) return html`<section class="card"><h2>${t("releases")}</h2><${Fault} problem=${problem} /></section>`;
  const all = [...value.releases, { release: BASE, is_current: value.current == null, metrics: {}, fault: "" }];
  const name = (release) => (t.has(`release.${release}`) ? t(`release.${release}`) : release);
  async function goBack() {
    await api.post("/api/training/rollback", { release: asked });
    again();
  }
  return html`<section class="card"><h2>${t("releases")}</h2>
    <ul class="rows releases">${all.map((one) => html`<li key=${one.release} class=${classes("row", one.is_current && "current")} data-release=${one.release} data-current=${one.is_current || undefined}>
      <span class="release-name">${name(one.release)}</span>
      <span class="row-note">${one.fault ? html`<span class="turn-error" dir="auto">${visible(one.fault)}</span>` : html`<${Figures} release=${one} />`}</span>
      ${one.created_at && html`<${Time} at=${one.created_at} />`}
      ${one.is_current ? html`<${Badge} kind="memory">${t("releases.current")}<//>`
        : session.may("admin") && !one.fault && html`<${Button} kind="small" action="rollback" disabled=${isRunning} onClick=${() => setAsked(one.release)}>${t("releases.use")}<//>`}
    </li>`)}</ul>
    ${asked && html`<${Confirm} title=${t("releases.use.title", { release: name(asked) })} yes=${t("releases.use")} danger=${false} act=${goBack} onClose=${() => setAsked("")}>
      <p>${t("releases.use.what")}</p><//>`}
  </section>`;
}

function Figures({ release }) {
  const t = usePhrases();
  const format = formats(t);
  const { memories, decodable, metrics } = release;
  if (release.release === BASE) return t("release.base.what");
  return html`${t("releases.memories", { count: memories ?? 0, decodable: decodable ?? 0 })}${metrics.recall_at_1 != null && html` · r@1 ${format.share(metrics.recall_at_1)}`}`;
}
