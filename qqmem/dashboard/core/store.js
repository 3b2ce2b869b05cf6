/** A value that views watch. They are told once a display frame, however often it changes. */

import { useEffect, useReducer } from "./html.js";

/**
 * @template T
 * @param {T} value
 * @param {(callback: () => void) => void} [soon] when to tell; default: the next display frame
 */
export function store(value, soon = nextFrame) {
  const watchers = new Set();
  let isDue = false;
  const tell = () => {
    isDue = false;
    for (const watcher of [...watchers]) watcher();
  };
  const touch = () => {
    if (isDue) return;
    isDue = true;
    soon(tell);
  };
  return {
    get: () => value,
    set(next) {
      if (next === value) return;
      value = next;
      touch();
    },
    /** The value was changed in place. */
    touch,
    watch(watcher) {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
  };
}

/** The value of a store, in a component that is drawn again when it changes. */
export function useStore(source) {
  const [, again] = useReducer((count) => count + 1, 0);
  useEffect(() => source.watch(again), [source]);
  return source.get();
}

/** A hidden page gets no display frames, so there a timer stands in. */
export function nextFrame(callback) {
  if (document.hidden) setTimeout(callback, 250);
  else requestAnimationFrame(callback);
}
