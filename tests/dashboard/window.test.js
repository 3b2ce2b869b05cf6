import assert from "node:assert/strict";
import test from "node:test";
import { Heights } from "../../qqmem/dashboard/core/window.js";

const random = (seed) => () => (seed = (seed * 1103515245 + 12345) % 2 ** 31) / 2 ** 31;
const keys = (count, from = 0) => Array.from({ length: count }, (_, at) => String(from + at));

function rows(count, guess = 50) {
  const heights = new Heights(guess);
  heights.use(keys(count));
  return heights;
}

test("tops are the sums of heights, however they are measured", () => {
  const [draw, heights, known] = [random(7), rows(200), new Array(200).fill(50)];
  for (let times = 0; times < 2000; times += 1) {
    const at = Math.floor(draw() * 200);
    known[at] = Math.ceil(draw() * 400);
    heights.measure(at, known[at]);
    const place = Math.floor(draw() * 201);
    assert.equal(heights.top(place), known.slice(0, place).reduce((sum, one) => sum + one, 0));
  }
  assert.equal(heights.total, known.reduce((sum, one) => sum + one, 0));
});

test("the row at a height is the one that covers it", () => {
  const [draw, heights] = [random(3), rows(300)];
  for (let at = 0; at < 300; at += 1) heights.measure(at, Math.ceil(draw() * 300));
  for (let times = 0; times < 500; times += 1) {
    const pixels = draw() * heights.total;
    const at = heights.at(pixels);
    assert.ok(heights.top(at) <= pixels && pixels < heights.top(at + 1), `${pixels} is not in row ${at}`);
  }
  for (let at = 0; at < 300; at += 1) assert.equal(heights.at(heights.top(at)), at);
  assert.equal(heights.at(-5), 0);
  assert.equal(heights.at(heights.total + 5), 299);
});

test("a window has all rows that are seen, and few others", () => {
  const heights = rows(50_000);
  const { start, end } = heights.range(1_000_000, 900, 500);
  assert.ok(heights.top(start) <= 1_000_000 - 500 + 50 && heights.top(end) >= 1_000_900);
  assert.ok(end - start < 50);
  assert.deepEqual(rows(0).range(0, 900, 500), { start: 0, end: 0 });
  assert.deepEqual(rows(3).range(0, 900, 500), { start: 0, end: 3 });
});

test("older rows come before, and what was measured stays with its row", () => {
  const heights = rows(3);
  heights.measure(1, 90);
  heights.use([...keys(2, 100), ...keys(3)]);
  assert.equal(heights.place("1"), 3);
  assert.equal(heights.height(3), 90);
  assert.equal(heights.top(3), 150);
  assert.equal(heights.place("7"), -1);
});
