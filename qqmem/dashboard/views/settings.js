/** The settings in force. Those that are not as they come stand out; secrets are not here. */

import { useApp, usePhrases } from "../core/app.js";
import { classes, html, useState } from "../core/html.js";
import { useFetched } from "../core/pages.js";
import { visible } from "../core/text.js";
import { Badge, Fault } from "../parts/basics.js";
import { SearchField } from "../parts/search.js";

/** A table of settings, with a search over their names and descriptions. */
export function Settings() {
  const { api } = useApp();
  const t = usePhrases();
  const [words, setWords] = useState("");
  const [isOwn, setOwn] = useState(false);
  const { value, problem } = useFetched(() => api.get("/api/settings"), []);
  const fits = (setting) => (!isOwn || !setting.is_default) && `${setting.name} ${what(t, setting)}`.toLowerCase().includes(words.toLowerCase());
  return html`<section class="card settings"><header class="card-head"><h2>${t("settings")}</h2>
      <${SearchField} id="settings-search" label=${t("settings.search")} words=${words} search=${setWords} />
      <label class="check"><input type="checkbox" checked=${isOwn} onChange=${(event) => setOwn(event.target.checked)} /> ${t("settings.own")}</label></header>
    <${Fault} problem=${problem} />
    ${value && html`<div class="settings-rows">${value.settings.filter(fits).map((setting) => html`<${Setting} key=${setting.name} setting=${setting} />`)}</div>`}
    <p class="hint">${t("settings.hint")}</p></section>`;
}

function Setting({ setting }) {
  const t = usePhrases();
  const { name, value, default: usual, is_default, env } = setting;
  return html`<div class=${classes("setting", !is_default && "own")} data-setting=${name}>
    <div class="setting-name"><code>${name}</code>${!is_default && html`<${Badge}>${t("settings.changed")}<//>`}</div>
    <div class="setting-value"><code dir="auto">${shown(value)}</code>${!is_default && usual !== undefined && html`<small>${t("settings.default", { value: shown(usual) })}</small>`}</div>
    <p class="setting-what">${visible(what(t, setting))} <small class="setting-env">${env}</small></p>
  </div>`;
}

function what(t, { description, description_zh }) {
  return (t.language === "zh" ? description_zh : description) ?? "";
}

function shown(value) {
  if (value === null || value === undefined || value === "") return "–";
  return visible(typeof value === "string" ? value : JSON.stringify(value));
}
