import assert from "node:assert/strict";
import test from "node:test";
import { apply, makeScene } from "../../qqmem/dashboard/core/scene.js";
import { pastExchanges, remember, segmentsOf } from "../../qqmem/dashboard/core/past.js";

const HERE = "private:1";
const RECALL = { cue: "想想", candidates: [{ id: 12, score: 2, fits: true, lanes: {} }], chosen: 12, mode: "spliced" };
const END = { outcome: "replied", reply: "好", actions: [], usage: { prompt: 9, cached: 0, completion: 3 }, timing: { queue: 0, first_token: 0.1, total: 1 } };

const said = (id, more = {}) => ({ type: "message", id, role: "user", sender: { id: "1", name: "小明" }, text: `话${id}`, time: "2026-11-22T09:00:00Z", conversation: HERE, ...more });
const start = (turn, messages) => ({ type: "turn.start", turn, conversation: HERE, messages });
const token = (turn, channel, text, n) => ({ type: "token", turn, channel, text, n, conversation: HERE });
const end = (turn, more = {}) => ({ type: "turn.end", turn, conversation: HERE, ...END, ...more });
const snapshot = (turns = []) => ({ type: "snapshot", turns, engine: {}, health: {} });

function played(...frames) {
  const scene = makeScene();
  frames.forEach((frame, at) => apply(scene, frame, at));
  return scene;
}

const written = (entry) => entry.segments.map(({ kind, text }) => [kind, text]);

test("a turn is written in the order in which it thinks, recalls and replies", () => {
  const { entries } = played(
    said(1), start(7, [1]), token(7, "think", "想", 1), token(7, "think", "想", 2), token(7, "memory", "小明爱猫", 2),
    { type: "recall", turn: 7, conversation: HERE, ...RECALL }, token(7, "think", "嗯", 3), token(7, "reply", "好", 4), end(7),
  );
  assert.equal(entries.length, 1);
  assert.deepEqual(written(entries[0]), [["think", "想想"], ["recall", "小明爱猫"], ["think", "嗯"], ["reply", "好"]]);
  assert.deepEqual(entries[0].segments[1].recall, RECALL);
  assert.equal(entries[0].outcome, "replied");
});

test("two recalls without text between them stay two", () => {
  const none = { type: "recall", turn: 7, conversation: HERE, cue: "", candidates: [], mode: "none" };
  const { entries } = played(start(7, [1]), none, none, token(7, "memory", "甲", 1), token(7, "memory", "乙", 2));
  assert.deepEqual(entries[0].segments.map(({ recall, text }) => [recall?.mode, text]), [["none", ""], ["none", ""], [undefined, "甲乙"]]);
});

test("an interrupted turn stays, and the newer one stands under the newer message", () => {
  const { entries } = played(said(1), start(7, [1]), token(7, "reply", "半", 1), said(2), end(7, { outcome: "superseded" }), start(8, [1, 2]));
  assert.deepEqual(entries.map(({ turn, outcome, messages }) => [turn, outcome, messages.map(({ id }) => id)]), [[7, "superseded", [1]], [8, "running", [2]]]);
});

test("messages that are merged wait together, and silence ends them", () => {
  const first = played(said(1), said(2), end(undefined, { outcome: "superseded", reply: "" }), start(7, [1, 2]));
  assert.deepEqual(first.entries.map(({ outcome, messages }) => [outcome, messages.length]), [["running", 2]]);
  const silent = played(said(1), end(undefined, { outcome: "no_reply", reply: "" }), said(2));
  assert.deepEqual(silent.entries.map(({ outcome }) => outcome), ["no_reply", ""]);
});

test("a command's answer stands by itself", () => {
  const { entries } = played(said(1), end(undefined, { reply: "你有 3 条记忆" }));
  assert.deepEqual(entries.map(({ outcome }) => outcome), ["", "replied"]);
  assert.deepEqual(written(entries[1]), [["reply", "你有 3 条记忆"]]);
});

test("a snapshot brings what is being written, and ends what is no longer", () => {
  const turn = { turn: 9, conversation: HERE, messages: [3], text: { think: "先想想，", memory: "小明爱猫", reply: "好" }, n: 4, recalls: [RECALL] };
  const scene = played(said(1), start(7, [1]), token(7, "reply", "半", 1), snapshot([turn]));
  assert.equal(scene.entries[0].outcome, "unknown");
  assert.deepEqual(written(scene.entries[1]), [["think", "先想想"], ["recall", "小明爱猫"], ["think", "，"], ["reply", "好"]]);
  apply(scene, token(9, "reply", "的", 5), 9);
  assert.equal(scene.entries[1].segments.at(-1).text, "好的");
});

test("the same snapshot twice draws nothing twice", () => {
  const turn = { turn: 9, conversation: HERE, messages: [3], text: { reply: "好" }, n: 1, recalls: [] };
  const { entries } = played(snapshot([turn]), snapshot([turn]));
  assert.deepEqual(entries.map(written), [[["reply", "好"]]]);
});

test("a message that comes twice is there once", () => {
  assert.equal(played(said(1), said(1)).entries[0].messages.length, 1);
});

test("the scene keeps so many entries, and forgets what it knew of the others", () => {
  const scene = makeScene();
  for (let id = 1; id <= 500; id += 1) for (const frame of [said(id), start(id, [id]), end(id)]) apply(scene, frame, id);
  assert.equal(scene.entries.length, 120);
  assert.equal(scene.turns.size, 120);
  assert.equal(scene.messages.size, 120);
});

test("frames of later kinds are ignored", () => {
  assert.equal(played({ type: "weather" }, token(99, "reply", "谁", 1)).entries.length, 0);
});

// ---- what was before -------------------------------------------------------------------------------------------------

const STORED = { id: 7, started_at: "2026-11-22T09:00:00.300Z", ended_at: "2026-11-22T09:00:01Z", messages: [1], error: "", recalls: [RECALL], thinking: "先想想。好", ...END };

test("a stored recall stands behind its cue", () => {
  assert.deepEqual(segmentsOf({ text: { think: "先想想。好", reply: "嗯" }, recalls: [RECALL] }).map(({ kind, text }) => [kind, text]),
    [["think", "先想想"], ["recall", ""], ["think", "。好"], ["reply", "嗯"]]);
  assert.deepEqual(segmentsOf({ text: { think: "别的", reply: "嗯" }, recalls: [RECALL] }).map(({ kind }) => kind), ["think", "recall", "reply"]);
  assert.deepEqual(segmentsOf({ text: { reply: "嗯" }, recalls: [{ ...RECALL, cue: "" }] }).map(({ kind }) => kind), ["recall", "reply"]);
});

test("what was missed is filled in once, under what is known", () => {
  const scene = played(said(1), start(7, [1]), snapshot([]));
  const page = { messages: [said(1, { turn: 7 }), said(0, { turn: undefined })].reverse(), turns: [STORED] };
  remember(scene, pastExchanges(HERE, page));
  remember(scene, pastExchanges(HERE, page));
  assert.deepEqual(scene.entries.map(({ outcome, turn }) => `${turn} ${outcome}`).sort(), ["7 replied", "null no_reply"]);
});

test("a running turn gets the messages that came before one looked", () => {
  const turn = { turn: 9, conversation: HERE, messages: [3], text: { reply: "好" }, n: 1, recalls: [] };
  const scene = played(snapshot([turn]));
  remember(scene, pastExchanges(HERE, { messages: [said(3, { turn: 9 })], turns: [{ ...STORED, id: 9, messages: [3], outcome: "running" }] }));
  assert.deepEqual(scene.entries.map(({ outcome, messages }) => [outcome, messages.map(({ id }) => id)]), [["running", [3]]]);
});

test("turns whose messages a later one answered are there, too", () => {
  const found = pastExchanges(HERE, { messages: [said(1, { turn: 8 })], turns: [{ ...STORED, outcome: "superseded", messages: [] }, { ...STORED, id: 8 }] });
  assert.deepEqual(found.map(({ turn }) => turn).sort(), [7, 8]);
});
