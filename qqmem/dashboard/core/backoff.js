/** How long to wait before connecting again: doubling, up to a most, each a little different so that not all come at once. */

/**
 * @param {number} tries failed ones so far, from 1
 * @param {() => number} random from 0 to 1
 * @returns {number} milliseconds
 */
export function pause(tries, random = Math.random) {
  const longest = Math.min(15_000, 400 * 2 ** (tries - 1));
  return Math.round(longest * (0.5 + random() / 2));
}
