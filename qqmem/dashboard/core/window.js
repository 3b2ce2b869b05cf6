/** The mathematics of a long list of which only a window is drawn: rows of various heights, measured when they are first seen. */

/** Heights of rows, known by their keys; those not measured yet are guessed. */
export class Heights {
  #known = new Map();
  #places = new Map();
  #tops = [0];
  #valid = 0;
  #keys = [];

  /** @param {number} guess pixels of a row that nobody has measured */
  constructor(guess) {
    this.guess = guess;
  }

  get length() {
    return this.#keys.length;
  }

  /** Pixels of all rows. */
  get total() {
    return this.top(this.length);
  }

  /** These are the rows now; what was measured of those that were there before is still known. @param {string[]} keys */
  use(keys) {
    this.#keys = keys;
    this.#places = new Map(keys.map((key, at) => [key, at]));
    this.#valid = 0;
  }

  /** @returns {number} the place of a row, -1 if it is gone */
  place(key) {
    return this.#places.get(key) ?? -1;
  }

  key(index) {
    return this.#keys[index];
  }

  height(index) {
    return this.#known.get(this.#keys[index]) ?? this.guess;
  }

  /** @returns {boolean} whether the row has another height than it was thought to have */
  measure(index, height) {
    const isOther = height !== this.height(index);
    this.#known.set(this.#keys[index], height);
    if (isOther) this.#valid = Math.min(this.#valid, index);
    return isOther;
  }

  /** Pixels above a row; of the length, the height of all. */
  top(index) {
    for (let at = this.#valid; at < index; at += 1) this.#tops[at + 1] = this.#tops[at] + this.height(at);
    this.#valid = Math.max(this.#valid, index);
    return this.#tops[index];
  }

  /** The row at a height in pixels; the last one below the end. */
  at(pixels) {
    this.top(this.length);
    let [low, high] = [0, Math.max(0, this.length - 1)];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#tops[middle] <= pixels) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /**
   * The rows that are to be drawn.
   * @param {number} scroll pixels above the window
   * @param {number} view its height
   * @param {number} spare pixels to draw above and below it
   * @returns {{start: number, end: number}} end is the first that is not drawn
   */
  range(scroll, view, spare) {
    if (this.length === 0) return { start: 0, end: 0 };
    return { start: this.at(Math.max(0, scroll - spare)), end: this.at(scroll + view + spare) + 1 };
  }
}
