/** Short messages that come and go, in a live region, so that screen readers say them. */

import { usePhrases } from "../core/app.js";
import { html } from "../core/html.js";
import { store, useStore } from "../core/store.js";
import { sentence } from "./basics.js";

const SECONDS = 7;

/** @returns {{list: object, say: (text: string) => void, complain: (problem: Error) => void}} */
export function makeToasts() {
  const list = store([], queueMicrotask);
  let last = 0;
  const add = (toast) => {
    last += 1;
    const key = last;
    list.set([...list.get().slice(-3), { key, ...toast }]);
    setTimeout(() => list.set(list.get().filter((one) => one.key !== key)), SECONDS * 1000);
  };
  return { list, say: (text) => add({ text }), complain: (problem) => add({ problem }) };
}

/** @param {{toasts: object}} props */
export function Toasts({ toasts }) {
  const t = usePhrases();
  const shown = useStore(toasts.list);
  return html`<div class="toasts" role="status" aria-live="polite">
    ${shown.map(({ key, text, problem }) => html`<p key=${key} class=${problem && problem.code !== "command" ? "toast bad" : "toast"}>
      ${problem ? sentence(t, problem) : text}</p>`)}
  </div>`;
}
