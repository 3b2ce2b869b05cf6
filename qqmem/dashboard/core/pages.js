/** Lists that come in pages. */

import { useEffect, useReducer, useRef } from "./html.js";

const MOST_AGAIN = 10;

/**
 * Pages of a list, fetched one after another.
 * @param {(before: any) => Promise<{items: object[], next?: any}>} fetchPage
 * @param {any[]} about what the list depends on; another list begins when it changes
 * @returns {{items: object[], isWhole: boolean, isBusy: boolean, problem: Error | null, more: () => void, again: () => void,
 *   change: (edit: (items: object[]) => object[]) => void}}
 */
export function usePages(fetchPage, about) {
  const [, draw] = useReducer((count) => count + 1, 0);
  const state = useRef(null);

  function begin() {
    state.current = { items: [], next: undefined, isWhole: false, isBusy: false, problem: null };
    more();
  }

  /** What is there stays until as much of the new has come. */
  async function again() {
    const mine = state.current;
    if (mine.isBusy) return;
    mine.isBusy = true;
    const found = { items: [], next: undefined };
    try {
      for (let page = 0; page < MOST_AGAIN; page += 1) {
        const { items, next } = await fetchPage(found.next);
        Object.assign(found, { items: [...found.items, ...items], next });
        if (next === undefined || found.items.length >= mine.items.length) break;
      }
      Object.assign(mine, found, { isWhole: found.next === undefined, problem: null });
    } catch (problem) {
      mine.problem = problem;
    }
    mine.isBusy = false;
    if (mine === state.current) draw();
  }

  async function more() {
    const mine = state.current;
    if (mine.isBusy || mine.isWhole) return;
    Object.assign(mine, { isBusy: true, problem: null });
    draw();
    try {
      const { items, next } = await fetchPage(mine.next);
      Object.assign(mine, { items: [...mine.items, ...items], next, isWhole: next === undefined });
    } catch (problem) {
      Object.assign(mine, { problem, isWhole: true });
    }
    mine.isBusy = false;
    if (mine === state.current) draw();
  }

  useEffect(begin, about);
  const { items = [], isWhole = false, isBusy = true, problem = null } = state.current ?? {};
  return {
    items, isWhole, isBusy, problem, more, again,
    change(edit) {
      state.current.items = edit(state.current.items);
      draw();
    },
  };
}

/**
 * Something that is fetched once, and again when what it is about changes. What was there stays until the new has come.
 * @param {() => Promise<any>} fetchIt
 * @param {any[]} about
 * @returns {{value: any, problem: Error | null, again: () => void}}
 */
export function useFetched(fetchIt, about) {
  const [, draw] = useReducer((count) => count + 1, 0);
  const state = useRef({ value: undefined, problem: null, turn: 0 });

  async function again() {
    state.current.turn += 1;
    const { turn } = state.current;
    try {
      const value = await fetchIt();
      if (turn === state.current.turn) Object.assign(state.current, { value, problem: null });
    } catch (problem) {
      if (turn === state.current.turn) state.current.problem = problem;
    }
    draw();
  }

  useEffect(() => {
    again();
    return () => { state.current.turn += 1; };
  }, about);
  return { ...state.current, again };
}

/**
 * Fetch a list again when something has changed; at most every other second.
 * @param {any} mark another one when it has
 * @param {{again: () => void}} pages
 */
export function useAgain(mark, pages) {
  const [seen, timer, newest] = [useRef(mark), useRef(0), useRef(pages)];
  newest.current = pages;
  useEffect(() => {
    if (mark === seen.current) return;
    seen.current = mark;
    timer.current ||= setTimeout(() => {
      timer.current = 0;
      newest.current.again();
    }, 2000);
  }, [mark]);
  useEffect(() => () => clearTimeout(timer.current), []);
}
