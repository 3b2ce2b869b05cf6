import assert from "node:assert/strict";
import test from "node:test";
import { formats } from "../../qqmem/dashboard/core/format.js";
import { nearest, projection, step, zoomed } from "../../qqmem/dashboard/core/map.js";
import { timeline } from "../../qqmem/dashboard/core/timeline.js";
import { addPast, feel, makeVitals, median } from "../../qqmem/dashboard/core/vitals.js";
import { LANGUAGES, speak } from "../../qqmem/dashboard/i18n/index.js";

test("both languages say the same things", () => {
  assert.deepEqual(Object.keys(LANGUAGES.en).sort(), Object.keys(LANGUAGES.zh).sort());
  const fields = (phrase) => [...String(phrase).matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
  for (const [key, phrase] of Object.entries(LANGUAGES.zh)) {
    if (typeof LANGUAGES.en[key] === "string") assert.deepEqual(new Set(fields(LANGUAGES.en[key])), new Set(fields(phrase)), key);
  }
});

test("phrases are filled in, and numbers change words", () => {
  assert.equal(speak("en")("trace.recalls", { count: 1 }), "Trace · 1 recall");
  assert.equal(speak("en")("trace.recalls", { count: 3 }), "Trace · 3 recalls");
  assert.equal(speak("zh")("trace.recalls", { count: 3 }), "经过 · 3 次回忆");
  assert.throws(() => speak("zh")("nothing.of.this"));
});

test("figures that are not known are a dash", () => {
  const format = formats(speak("zh"));
  assert.deepEqual([format.number(undefined), format.seconds(null), format.share(NaN), format.bytes("")], ["–", "–", "–", "–"]);
  assert.deepEqual([format.seconds(0.2), format.seconds(75), format.seconds(3700), format.bytes(1_700_000_000)], ["0.20 s", "75.0 s", "1 h 1 min", "1.7 GB"]);
});

test("curves go on from what was before one came", () => {
  const vitals = makeVitals();
  const progress = (step, loss = 1) => ({ type: "training.progress", run: 3, stage: "stage1", step, steps: 9, loss: { total: loss } });
  feel(vitals, progress(4));
  feel(vitals, progress(4));
  feel(vitals, progress(5));
  assert.equal(vitals.curves.get(3).get("stage1").length, 2, "what is told twice is one point");
  addPast(vitals, 3, [1, 2, 4].map((at) => progress(at)));
  assert.deepEqual(vitals.curves.get(3).get("stage1").map(({ step: at }) => at), [1, 2, 4, 5]);
  feel(vitals, { ...progress(1), run: 4 });
  assert.deepEqual([...vitals.curves.keys()], [4]);
});

test("latencies are of replies", () => {
  const vitals = makeVitals();
  const timing = (first_token) => ({ queue: 0, first_token, total: 1 });
  for (const [turn, outcome] of [[1, "replied"], [2, "cancelled"], [undefined, "replied"], [3, "replied"]]) {
    feel(vitals, { type: "turn.end", turn, outcome, timing: timing(turn ?? 9) });
  }
  assert.equal(median(vitals.latencies.map((one) => one.first_token)), 2);
  assert.equal(median([]), null);
});

test("a conversation is in order, a turn stands where its reply does", () => {
  const message = (id, role, time, turn) => ({ id, role, time, turn });
  const turn = (id, started_at) => ({ id, started_at });
  const rows = timeline(
    [message(1, "user", "2026-11-22T09:00:00Z", 8), message(2, "user", "2026-11-22T09:00:05Z", 8), message(3, "assistant", "2026-11-22T09:00:09Z", 8)],
    new Map([[7, turn(7, "2026-11-22T09:00:01Z")], [8, turn(8, "2026-11-22T09:00:06Z")], [6, turn(6, "2026-11-20T09:00:00Z")]]),
  );
  assert.deepEqual(rows.map(({ kind, key }) => [kind, kind === "day" ? "" : key]), [["day", ""], ["message", "m1"], ["turn", "t7"], ["message", "m2"], ["turn", "m3"]]);
});

test("the map goes to the page and back", () => {
  const plane = projection({ width: 800, height: 600 }, { scale: 2, x: 0.3, y: -0.2 });
  const { x, y } = plane.from(...plane.to({ x: 0.5, y: 0.1 }));
  assert.ok(Math.abs(x - 0.5) < 1e-9 && Math.abs(y - 0.1) < 1e-9);
  const points = [{ x: 0, y: 0 }, { x: 0.5, y: 0.1 }, { x: -0.5, y: 0 }];
  assert.equal(nearest(points, plane, ...plane.to(points[1])), 1);
  assert.equal(nearest(points, plane, -500, -500), -1);
  assert.deepEqual(["ArrowRight", "ArrowLeft", "ArrowUp"].map((key) => step(points, 0, key)), [1, 2, 1]);
  assert.equal(step(points, 1, "ArrowRight"), 1);
  const view = zoomed({ scale: 1, x: 0, y: 0 }, 2, { x: 0.5, y: 0.5 });
  assert.deepEqual(view, { scale: 2, x: 0.25, y: 0.25 });
});
