/** The door. */

import { useApp, usePhrases } from "../core/app.js";
import { html, useEffect, useRef, useState } from "../core/html.js";
import { useStore } from "../core/store.js";
import { Fault } from "../parts/basics.js";
import { Mark } from "../parts/icons.js";
import { LanguageSwitch, ThemeSwitch } from "../parts/switches.js";

/** Ask for a token. What one was looking at stays in the address, and is shown again afterwards. */
export function LogIn() {
  const { session } = useApp();
  const t = usePhrases();
  const who = useStore(session.current);
  const field = useRef(null);
  const [problem, setProblem] = useState(null);
  const [isBusy, setBusy] = useState(false);
  useEffect(() => field.current.focus(), []);

  async function enter(event) {
    event.preventDefault();
    setBusy(true);
    try {
      await session.logIn(field.current.value.trim());
    } catch (error) {
      setProblem(error);
      field.current.select();
      setBusy(false);
    }
  }

  return html`<main class="gate-page" data-view="login">
    <form class="gate-form" onSubmit=${enter}>
      <${Mark} size=${48} />
      <h1>${t("login.title", { bot: who.bot ?? "qqmem" })}</h1>
      ${who.lost && html`<p class="gate-note" role="status">${t("login.lost")}</p>`}
      <label for="login-token">${t("login.token")}</label>
      <input id="login-token" ref=${field} type="password" autocomplete="current-password" required aria-describedby="login-help" />
      <p id="login-help" class="hint">${t("login.help")}</p>
      <${Fault} problem=${problem} />
      <button id="login-submit" class="button primary" type="submit" disabled=${isBusy}>${t("login.enter")}</button>
      <div class="gate-switches"><${LanguageSwitch} /><${ThemeSwitch} /></div>
    </form>
  </main>`;
}
