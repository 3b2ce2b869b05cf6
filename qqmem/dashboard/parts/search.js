/** A field to search with: what is written there is searched for when one pauses, or at Enter. */

import { html, useEffect, useRef } from "../core/html.js";
import { Icon } from "./icons.js";

const PAUSE = 350;

/** @param {{id: string, label: string, words: string, search: (words: string) => void}} props words: those of the list below */
export function SearchField({ id, label, words, search }) {
  const [field, timer, asked, newest] = [useRef(null), useRef(0), useRef(words), useRef(search)];
  newest.current = search; // of the page as it is when the pause is over
  function ask() {
    clearTimeout(timer.current);
    const wanted = field.current.value.trim();
    if (wanted === asked.current) return;
    asked.current = wanted;
    newest.current(wanted);
  }
  function later() {
    clearTimeout(timer.current);
    timer.current = setTimeout(ask, PAUSE);
  }
  useEffect(() => {
    if (words === asked.current) return; // it was asked here
    asked.current = words;
    field.current.value = words;
  }, [words]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return html`<div class="search"><${Icon} name="search" />
    <input id=${id} ref=${field} type="search" defaultValue=${words} aria-label=${label} placeholder=${label} autocomplete="off"
      onInput=${later} onKeyDown=${(event) => event.key === "Enter" && !event.isComposing && ask()} /></div>`;
}
