/** The languages of the page. */

import { store } from "../core/store.js";
import en from "./en.js";
import zh from "./zh.js";

export const LANGUAGES = { zh, en };
const KEY = "qqmem.language";

/**
 * @param {string | null} wanted of the service's settings, when the browser speaks neither
 * @param {Storage} kept
 */
export function makeLanguage(kept, browser = navigator.languages) {
  const known = (name) => name in LANGUAGES;
  const spoken = browser.map((tag) => tag.slice(0, 2).toLowerCase()).find(known);
  const name = store(first(known, kept.getItem(KEY), spoken, "zh"), queueMicrotask);
  const phrases = store(speak(name.get()), queueMicrotask);
  return {
    name,
    phrases,
    choose(next) {
      kept.setItem(KEY, next);
      name.set(next);
      phrases.set(speak(next));
    },
  };
}

const first = (fits, ...candidates) => candidates.find((one) => one != null && fits(one));

/**
 * @param {string} name `zh` or `en`
 * @returns {(key: string, values?: object) => string} a phrase; `{count}` in it is replaced; raises on an unknown key
 */
export function speak(name) {
  const dictionary = LANGUAGES[name];
  const t = (key, values = {}) => {
    const phrase = dictionary[key];
    if (phrase === undefined) throw new Error(`No phrase ${key} in ${name}`);
    const chosen = typeof phrase === "function" ? phrase(values) : phrase;
    return chosen.replace(/\{(\w+)\}/g, (_, field) => String(values[field]));
  };
  t.language = name;
  t.has = (key) => key in dictionary;
  return t;
}
