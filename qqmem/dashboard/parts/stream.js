/** Text that grows: what has come is appended to the page, nothing is drawn twice. */

import { html, useLayoutEffect, useRef } from "../core/html.js";
import { tail, visible } from "../core/text.js";

const MOST_SHOWN = 20_000;
const MOST_NODES = 400;

/**
 * @param {object} props
 * @param {string} props.text only ever longer than before, or another one
 * @param {boolean} [props.isWriting] whether a caret stands at its end
 */
export function Stream({ text, isWriting = false, as = "span", ...props }) {
  const [place, drawn] = [useRef(null), useRef("")];
  useLayoutEffect(() => {
    const [node, before] = [place.current, drawn.current];
    const isMore = before && text.length > before.length && text.startsWith(before.slice(-64), Math.max(0, before.length - 64));
    if (text === before) return;
    if (isMore && node.childNodes.length < MOST_NODES && text.length <= MOST_SHOWN) {
      node.append(visible(text.slice(before.length)));
    } else {
      const { dropped, text: end } = tail(text, MOST_SHOWN);
      node.textContent = (dropped ? "… " : "") + visible(end);
    }
    drawn.current = text;
  }, [text]);
  return html`<${as} dir="auto" ...${props}><span class="stream" ref=${place}></span>${isWriting && html`<i class="caret" aria-hidden="true"></i>`}<//>`;
}
