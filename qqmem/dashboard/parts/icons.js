/** Small drawings of lines, 20 by 20. They are decoration: what they stand for is said by a label beside them. */

import { html } from "../core/html.js";

const PATHS = {
  live: "M2.5 10h3l2-5.5 3.5 11 2.5-7 1 1.5h3",
  conversations: "M3.5 5.5a2 2 0 0 1 2-2h9a2 2 0 0 1 2 2v6a2 2 0 0 1-2 2H9l-4 3v-3a2 2 0 0 1-1.5-2z",
  memories: "M10 3l7 3.5-7 3.5-7-3.5zM3 10l7 3.5 7-3.5M3 13.5L10 17l7-3.5",
  training: "M3 3v14h14M5.5 6c1.5 5.5 4 7.5 11 8",
  system: "M3 6h7M14 6h3M3 14h3M10 14h7M12 4v4M8 12v4",
  plus: "M10 5v10M5 10h10",
  minus: "M5 10h10",
  stop: "M6 6h8v8H6z",
  send: "M10 16V4M5 9l5-5 5 5",
  search: "M9 3.5a5.5 5.5 0 1 1 0 11 5.5 5.5 0 0 1 0-11zM13.2 13.2L17 17",
  pin: "M7.5 3h5l-.7 5 2.7 3h-9l2.7-3zM10 11v6",
  edit: "M4 16l.8-3.4L13 4.4a1.4 1.4 0 0 1 2 0l.6.6a1.4 1.4 0 0 1 0 2L7.4 15.2z",
  forget: "M4 5.5h12M8 5.5V4h4v1.5M5.5 5.5l.8 11h7.4l.8-11M8.5 8.5v5M11.5 8.5v5",
  history: "M3.5 10a6.5 6.5 0 1 0 2-4.7L3.5 7M3.5 3.5V7H7M10 6.5V10l2.5 1.5",
  export: "M10 3v9M6.5 8.5L10 12l3.5-3.5M4 16.5h12",
  close: "M5 5l10 10M15 5L5 15",
  down: "M5.5 8l4.5 4.5L14.5 8",
  right: "M8 5.5l4.5 4.5L8 14.5",
  left: "M12 5.5L7.5 10l4.5 4.5",
  sun: "M10 6.5a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7zM10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M15.7 4.3l-1.1 1.1M5.4 14.6l-1.1 1.1",
  moon: "M16.5 11.5A7 7 0 0 1 8.5 3.5a7 7 0 1 0 8 8z",
  language: "M3 5h8M7 3v2M9.5 5c-.7 3-2.9 5.3-6 6.5M4.5 7.5c1 2 3 3.5 5 4M10 17l3.5-8 3.5 8M11.3 14.2h4.4",
  list: "M7 5.5h10M7 10h10M7 14.5h10M3.5 5.5h.01M3.5 10h.01M3.5 14.5h.01",
  map: "M5 6h.01M9 4h.01M14 6.5h.01M7 10.5h.01M11.5 9.5h.01M16 11.5h.01M5.5 15h.01M10.5 14.5h.01M14.5 16h.01",
  logout: "M8 3.5H4.5v13H8M12 6.5l3.5 3.5-3.5 3.5M15.5 10H8",
  report: "M5 3h7l3.5 3.5V17H5zM12 3v3.5h3.5M8 10h5M8 13h5",
  recall: "M3.5 4.5h6M3.5 8h4M12.5 3.5v5a2.5 2.5 0 0 1-2.5 2.5H5.5M8 8.5L5.5 11 8 13.5M12 15.5h4.5",
  play: "M6.5 4.5l9 5.5-9 5.5z",
};

/** @param {{name: string, size?: number}} props */
export function Icon({ name, size = 18 }) {
  return html`<svg class="icon" data-icon=${name} width=${size} height=${size} viewBox="0 0 20 20" aria-hidden="true"
    focusable="false"><path d=${PATHS[name]} /></svg>`;
}

/** The mark of the product: a thought that is opened in the middle, and goes on. */
export function Mark({ size = 28 }) {
  return html`<svg class="mark" width=${size} height=${size} viewBox="0 0 28 28" aria-hidden="true" focusable="false">
    <path class="mark-line" d="M3 9.5h13" /><path class="mark-line" d="M12 18.5h13" />
    <path class="mark-fold" d="M16 9.5c5.5 0 5.5 4.5 0 4.5h-4c-5.5 0-5.5 4.5 0 4.5" />
  </svg>`;
}
