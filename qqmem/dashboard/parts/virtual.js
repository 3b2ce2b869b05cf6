/** A long list of which only a window is on the page. Rows may have any height; they are measured when they are shown. */

import { classes, html, useLayoutEffect, useMemo, useReducer, useRef } from "../core/html.js";
import { Heights } from "../core/window.js";

const SPARE = 500;
const AT_END = 24;

/**
 * What one looks at stays where it is, whatever comes above it or turns out to be higher than it was thought to be.
 * @param {object} props
 * @param {{key: string}[]} props.rows
 * @param {(row: object) => any} props.draw
 * @param {number} props.guess pixels of a row that was not measured yet
 * @param {() => void} [props.onStart] the window has come near the first row
 * @param {() => void} [props.onEnd] the window has come near the last row
 * @param {boolean} [props.atEnd] begin at the end, and stay there while rows are added
 */
export function VirtualList({ rows, draw, guess, onStart, onEnd, atEnd = false, label, ...props }) {
  const [box, watcher, state] = [useRef(null), useRef(null), useRef(null)];
  const [, again] = useReducer((count) => count + 1, 0);
  state.current ??= { heights: new Heights(guess), anchors: [], sticks: atEnd };
  const { heights } = state.current;
  useMemo(() => heights.use(rows.map((row) => row.key)), [rows]);
  const view = box.current?.clientHeight || 800;
  const { start, end } = heights.range(wantedTop(state.current, view, box.current?.scrollTop ?? 0), view, SPARE);

  useLayoutEffect(() => {
    const node = box.current;
    const drawn = [...node.firstChild.children];
    for (const row of drawn) heights.measure(Number(row.dataset.at), row.offsetHeight);
    node.firstChild.style.height = `${heights.total}px`;
    for (const row of drawn) {
      row.style.transform = `translateY(${heights.top(Number(row.dataset.at))}px)`;
      watcher.current?.observe(row);
    }
    const top = wantedTop(state.current, node.clientHeight, node.scrollTop);
    if (Math.abs(top - node.scrollTop) > 0.5) node.scrollTop = top;
    const due = heights.range(node.scrollTop, node.clientHeight, SPARE / 2);
    if (due.start < start || due.end > end) again(); // rows were lower than they were thought to be
  });

  useLayoutEffect(() => {
    watcher.current = new ResizeObserver(() => again());
    watcher.current.observe(box.current);
    return () => watcher.current.disconnect();
  }, []);

  function scrolled() {
    const node = box.current;
    const below = heights.total - node.scrollTop - node.clientHeight;
    state.current.sticks = atEnd && below < AT_END;
    state.current.anchors = anchorsAt(heights, node.scrollTop);
    if (node.scrollTop < SPARE) onStart?.();
    if (below < SPARE) onEnd?.();
    again();
  }

  return html`<div ref=${box} class=${classes("virtual", props.class)} onScroll=${scrolled} tabindex="0" role="region" aria-label=${label}>
    <div class="virtual-rows" role="list">
      ${rows.slice(start, end).map((row, at) => html`<div key=${row.key} class="virtual-row" role="listitem"
        data-at=${start + at} aria-setsize=${rows.length} aria-posinset=${start + at + 1}>${draw(row)}</div>`)}
    </div>
  </div>`;
}

/** The first rows that are seen, and where; some, since one of them may be gone when others have come above it. */
function anchorsAt(heights, top) {
  const at = heights.at(top);
  return [at, at + 1, at + 2].filter((index) => index < heights.length)
    .map((index) => ({ key: heights.key(index), offset: top - heights.top(index) }));
}

/** Where the window is to be, so that it stays at the end or at the row that it was at. */
function wantedTop({ heights, anchors, sticks }, view, top) {
  if (sticks) return Math.max(0, heights.total - view);
  const anchor = anchors.find(({ key }) => heights.place(key) >= 0);
  if (!anchor) return top;
  return Math.max(0, Math.min(heights.top(heights.place(anchor.key)) + anchor.offset, heights.total - view));
}
