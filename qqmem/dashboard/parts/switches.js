/** Language and theme. */

import { useApp, usePhrases } from "../core/app.js";
import { html } from "../core/html.js";
import { useStore } from "../core/store.js";
import { Icon } from "./icons.js";

/** Chinese or English. */
export function LanguageSwitch() {
  const { language } = useApp();
  const t = usePhrases();
  return html`<button id="language" type="button" class="button quiet" aria-label=${t("language.other")} title=${t("language.other")}
    onClick=${() => language.choose(t.language === "zh" ? "en" : "zh")}><span lang=${t.language === "zh" ? "en" : "zh-CN"}>${t.language === "zh" ? "EN" : "中"}</span></button>`;
}

/** Light or dark. */
export function ThemeSwitch() {
  const { theme } = useApp();
  const t = usePhrases();
  const other = useStore(theme.name) === "dark" ? "light" : "dark";
  return html`<button id="theme" type="button" class="button quiet icon-only" aria-label=${t(`theme.${other}`)} title=${t(`theme.${other}`)}
    onClick=${() => theme.choose(other)}><${Icon} name=${other === "dark" ? "moon" : "sun"} /></button>`;
}
