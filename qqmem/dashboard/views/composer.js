/** Saying something to the bot oneself, as a test user in a private chat. */

import { useApp, usePhrases } from "../core/app.js";
import { path } from "../core/api.js";
import { html, useRef, useState } from "../core/html.js";
import { useStore } from "../core/store.js";
import { Button } from "../parts/basics.js";
import { Icon } from "../parts/icons.js";

const ID = "[0-9A-Za-z_\\-]{1,64}";
const KEY = "qqmem.say-user";

/** A field that grows with what is written; Enter sends, Shift+Enter begins a line. */
export function Composer() {
  const { talk, toasts, scene, api } = useApp();
  const t = usePhrases();
  const { entries } = useStore(scene);
  const [user, setUser] = useState(localStorage.getItem(KEY) ?? "dashboard");
  const [hasText, setHasText] = useState(false);
  const [field, form] = [useRef(null), useRef(null)];
  const conversation = `private:${user}`;
  const isWriting = entries.some((entry) => entry.conversation === conversation && entry.outcome === "running");

  async function send(event) {
    event.preventDefault();
    const text = field.current.value.trim();
    if (!text || !form.current.reportValidity()) return;
    try {
      await talk.say({ conversation, sender: { id: user, name: t("say.name") }, text });
      field.current.value = "";
      setHasText(false);
      localStorage.setItem(KEY, user);
    } catch (problem) {
      toasts.complain(problem);
    }
  }

  const stop = () => api.post(path`/api/conversations/${conversation}/cancel`).catch(toasts.complain);
  const typed = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && send(event);

  return html`<form class="composer" ref=${form} onSubmit=${send}>
    <label class="composer-user"><span>${t("say.as")}</span>
      <input id="say-user" value=${user} pattern=${ID} required spellcheck="false" autocomplete="off" onInput=${(event) => setUser(event.target.value)} /></label>
    <textarea id="say-text" ref=${field} rows="1" aria-label=${t("say.text")} placeholder=${t("say.text")} onKeyDown=${typed}
      onInput=${(event) => setHasText(event.target.value.trim() !== "")}></textarea>
    ${isWriting && html`<${Button} icon="stop" label=${t("stop")} action="stop-own" onClick=${stop} />`}
    <button id="say-send" class="button primary icon-only" type="submit" aria-label=${t("say.send")} title=${t("say.send")} disabled=${!hasText}><${Icon} name="send" /></button>
  </form>`;
}
