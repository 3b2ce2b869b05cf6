/**
 * What goes on, drawn from the frames of /ws/live: exchanges (what was said, and the turn that answers it) and notes
 * (something happened), oldest first. Entries change in place; `rev` of an entry rises when it does.
 *
 * An exchange has `messages`, and once a turn answers them its number and `segments`, in the order in which they were
 * written: {kind: "think" | "reply", text} and {kind: "recall", text, recall}, where recall is null until it is told.
 */

import { exchangeOf, segmentsOf } from "./past.js";

const MOST_ENTRIES = 120;
const MOST_TEXT = 40_000;
const RUNNING = "running";

/** @returns {object} an empty scene */
export function makeScene() {
  return { entries: [], turns: new Map(), names: new Map(), messages: new Set(), lastKey: 0 };
}

/**
 * Draw a frame into the scene. Frames of other kinds are ignored.
 * @param {object} scene
 * @param {object} frame
 * @param {number} now milliseconds since 1970
 */
export function apply(scene, frame, now) {
  HANDLERS[frame.type]?.(scene, frame, now);
}

const HANDLERS = {
  snapshot: takeSnapshot,
  message: takeMessage,
  "turn.start": startTurn,
  token: takeToken,
  recall: takeRecall,
  "turn.end": endTurn,
  lagged: (scene, { n }, now) => note(scene, now, { what: "lagged", count: n }),
  "memory.added": (scene, frame, now) => noteMemories(scene, frame, now),
  "memory.changed": (scene, frame, now) => noteMemories(scene, frame, now),
  "memory.forgotten": (scene, frame, now) => noteMemories(scene, frame, now),
  "training.release": (scene, { release }, now) => note(scene, now, { what: "release", release: release ?? "" }),
  "training.run": noteRun,
  "bridge.connected": (scene, { bridge, connected }, now) => note(scene, now, { what: connected ? "bridge.on" : "bridge.off", bridge }),
  "bridge.delivery": noteDelivery,
};

// ---- entries ---------------------------------------------------------------------------------------------------------

function add(scene, entry) {
  scene.lastKey += 1;
  const made = { key: scene.lastKey, rev: 0, ...entry };
  scene.entries.push(made);
  while (scene.entries.length > MOST_ENTRIES) drop(scene, scene.entries.shift());
  return made;
}

function drop(scene, entry) {
  scene.turns.delete(entry.turn);
  for (const message of entry.messages ?? []) scene.messages.delete(message.id);
}

const note = (scene, at, fields) => add(scene, { kind: "note", at, ...fields });

const touch = (entry) => { entry.rev += 1; };

function addExchange(scene, conversation, at) {
  return add(scene, exchangeOf(conversation, at));
}

function newest(scene, fits) {
  for (let at = scene.entries.length - 1; at >= 0; at -= 1) {
    if (scene.entries[at].kind === "exchange" && fits(scene.entries[at])) return scene.entries[at];
  }
  return null;
}

// ---- what is said ----------------------------------------------------------------------------------------------------

function takeMessage(scene, frame, now) {
  if (scene.messages.has(frame.id)) return;
  if (frame.role === "assistant") return;
  const open = newest(scene, (entry) => entry.conversation === frame.conversation);
  const entry = open && open.outcome === "" ? open : addExchange(scene, frame.conversation, now);
  scene.messages.add(frame.id);
  entry.messages = [...entry.messages, frame];
  if (frame.conversation.startsWith("private:") && frame.sender.name) scene.names.set(frame.conversation, frame.sender.name);
  touch(entry);
}

function startTurn(scene, frame, now) {
  if (scene.turns.has(frame.turn)) return;
  const ids = new Set(frame.messages);
  const asked = newest(scene, (entry) => entry.conversation === frame.conversation && entry.outcome === ""
    && entry.messages.some((message) => ids.has(message.id)));
  const entry = asked ?? addExchange(scene, frame.conversation, now);
  Object.assign(entry, { turn: frame.turn, answers: [...frame.messages], outcome: RUNNING, startedAt: now });
  scene.turns.set(frame.turn, entry);
  touch(entry);
}

function takeToken(scene, frame) {
  const entry = scene.turns.get(frame.turn);
  if (!entry) return;
  entry.n = frame.n;
  const kind = frame.channel === "memory" ? "recall" : frame.channel;
  const last = entry.segments.at(-1);
  if (last?.kind === kind && !last.recall) {
    if (last.text.length < MOST_TEXT) last.text += frame.text;
  } else {
    entry.segments.push({ kind, text: frame.text, recall: null });
  }
  touch(entry);
}

function takeRecall(scene, frame) {
  const entry = scene.turns.get(frame.turn);
  if (!entry) return;
  const last = entry.segments.at(-1);
  const { cue, candidates, chosen, mode } = frame;
  const recall = { cue, candidates, chosen, mode };
  if (last?.kind === "recall" && !last.recall) last.recall = recall;
  else entry.segments.push({ kind: "recall", text: "", recall });
  touch(entry);
}

function endTurn(scene, frame, now) {
  const entry = frame.turn === undefined ? withoutTurn(scene, frame, now) : scene.turns.get(frame.turn);
  if (!entry) return;
  const { outcome, reply, actions, usage, timing, error } = frame;
  Object.assign(entry, { outcome, reply, actions, usage, timing, error, endedAt: now });
  touch(entry);
}

/** Whose end it is that no turn began: of a command (it has a reply), or of messages that are met with silence. */
function withoutTurn(scene, { conversation, outcome, reply }, now) {
  if (reply) {
    const answer = addExchange(scene, conversation, now);
    answer.segments = [{ kind: "reply", text: reply, recall: null }];
    return answer;
  }
  if (outcome === "superseded") return null; // a newer message has taken it along: its turn begins soon
  return newest(scene, (entry) => entry.conversation === conversation && entry.outcome === "");
}

// ---- coming (back) ---------------------------------------------------------------------------------------------------

function takeSnapshot(scene, frame, now) {
  const going = new Set(frame.turns.map((turn) => turn.turn));
  for (const entry of scene.entries) {
    if (entry.outcome === RUNNING && !going.has(entry.turn)) {
      entry.outcome = "unknown";
      touch(entry);
    }
  }
  for (const turn of frame.turns) {
    startTurn(scene, turn, now);
    const entry = scene.turns.get(turn.turn);
    Object.assign(entry, { segments: segmentsOf(turn), n: turn.n, outcome: RUNNING });
    touch(entry);
  }
}

// ---- what happens besides --------------------------------------------------------------------------------------------

function noteMemories(scene, { type, ids, count, scope }, now) {
  const last = scene.entries.at(-1);
  if (last?.what === type && last.scope === scope && last.ids.length < 20) {
    const both = new Set([...last.ids, ...ids]);
    last.count += both.size - last.ids.length + Math.max(0, count - ids.length);
    last.ids = [...both];
    touch(last);
  } else {
    note(scene, now, { what: type, ids: ids.slice(0, 20), count, scope });
  }
}

function noteRun(scene, { run }, now) {
  const known = scene.entries.findLast((entry) => entry.what === "run" && entry.run.id === run.id);
  if (known?.run.state === run.state) return;
  note(scene, now, { what: "run", run });
}

function noteDelivery(scene, { status, bridge, conversation, reason }, now) {
  if (status !== "sent") note(scene, now, { what: "undelivered", bridge, conversation, reason: reason ?? "", status });
}
