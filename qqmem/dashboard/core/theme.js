/** Light or dark: as the system says, until somebody chooses. */

import { store } from "./store.js";

const KEY = "qqmem.theme";

/** @param {Storage} kept */
export function makeTheme(kept) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const wanted = () => kept.getItem(KEY) ?? (system.matches ? "dark" : "light");
  const name = store(wanted(), queueMicrotask);
  const show = () => {
    name.set(wanted());
    document.documentElement.dataset.theme = wanted();
  };
  system.addEventListener("change", show);
  show();
  return {
    name,
    choose(next) {
      kept.setItem(KEY, next);
      show();
    },
  };
}
