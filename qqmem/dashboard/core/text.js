/** Text of strangers, made harmless to read: what is invisible or turns the direction of writing around is shown as a mark. */

const PICTURES = 0x2400;
const SYMBOL_OF_DELETE = "\u2421";
const LINE_BREAK = "\u2424";
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060-\u2069\ufeff\ufff9-\ufffb]/g;
const LONGEST_NAME = 64;

function mark(char) {
  const code = char.codePointAt(0);
  if (code < 0x20) return String.fromCharCode(PICTURES + code);
  if (code === 0x7f) return SYMBOL_OF_DELETE;
  return `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
}

/**
 * Text with its line breaks and tabs; control characters, bidirectional and zero-width ones as marks.
 * A carriage return before a line feed is dropped.
 * @param {string} text
 */
export const visible = (text) => String(text).replace(/\r\n/g, "\n").replace(HIDDEN, mark);

/**
 * A name on one line, of at most 64 characters. Put it into a `<bdi>`.
 * @param {string} text
 */
export function oneLine(text) {
  const shown = visible(text).replace(/[\n\t]/g, (char) => (char === "\n" ? LINE_BREAK : " "));
  const chars = [...shown];
  return chars.length > LONGEST_NAME ? `${chars.slice(0, LONGEST_NAME - 1).join("")}…` : shown;
}

/**
 * The last `most` characters of a text, and how many came before them.
 * @param {string} text
 * @param {number} most
 * @returns {{dropped: number, text: string}}
 */
export function tail(text, most) {
  if (text.length <= most) return { dropped: 0, text };
  let start = text.length - most;
  if (isLowSurrogate(text, start)) start += 1;
  return { dropped: start, text: text.slice(start) };
}

const isLowSurrogate = (text, at) => (text.charCodeAt(at) & 0xfc00) === 0xdc00;
