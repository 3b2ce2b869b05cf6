/** What was said before one came: stored messages and turns as exchanges, in the shape of the scene. */

const CUE_END = 24;

/**
 * @param {string} conversation
 * @param {number} at milliseconds since 1970
 */
export function exchangeOf(conversation, at) {
  return {
    kind: "exchange", conversation, at, messages: [], turn: null, answers: [], segments: [], n: 0, outcome: "",
    reply: "", actions: [], usage: null, timing: null, error: null, startedAt: 0, endedAt: 0,
  };
}

/**
 * The segments of a turn of which only the whole text of each channel is known. A recall belongs behind its cue, which is
 * what the turn had thought just before; the text of the memory may be part of the thought as it was read.
 */
export function segmentsOf({ text, recalls }) {
  const found = [];
  const add = (kind, its, recall = null) => (its || recall) && found.push({ kind, text: its, recall });
  const thought = text.think ?? "";
  let at = 0;
  for (const recall of recalls) {
    const cue = recall.cue.trim().slice(-CUE_END);
    const start = cue ? thought.indexOf(cue, at) : -1;
    if (start >= 0) {
      add("think", thought.slice(at, start + cue.length));
      at = start + cue.length;
    }
    add("recall", recall === recalls.at(-1) ? text.memory ?? "" : "", recall);
  }
  const isCut = recalls.length > 0 && at === 0; // no cue was found: the thought came first
  if (thought.slice(at).trim()) {
    const rest = { kind: "think", text: thought.slice(at), recall: null };
    if (isCut) found.unshift(rest);
    else found.push(rest);
  }
  if (!recalls.length) add("recall", text.memory ?? "");
  add("reply", text.reply ?? "");
  return found;
}

/**
 * Exchanges of a page of /api/conversations/{id}/messages, oldest first. A turn that still runs is left out: the live
 * socket has it.
 * @param {string} conversation
 * @param {{messages: object[], turns: object[]}} page
 */
export function pastExchanges(conversation, { messages, turns }) {
  const byTurn = new Map(turns.map((turn) => [turn.id, turn]));
  const [found, open] = [[], new Map()];
  for (const message of messages.filter(({ role }) => role === "user")) {
    const turn = byTurn.get(message.turn);
    const known = turn && open.get(turn.id);
    if (known) {
      known.messages.push(message);
      continue;
    }
    const made = { ...exchangeOf(conversation, Date.parse(message.time)), messages: [message] };
    if (turn && turn.outcome !== "running") {
      Object.assign(made, endedTurn(turn));
      open.set(turn.id, made);
    } else if (!turn) {
      made.outcome = "no_reply";
    }
    found.push(made);
  }
  for (const turn of turns) {
    if (turn.outcome === "running" || open.has(turn.id)) continue; // others wrote for messages that a later turn answered
    found.push({ ...exchangeOf(conversation, Date.parse(turn.started_at)), ...endedTurn(turn) });
  }
  return found.sort((a, b) => a.at - b.at);
}

/** A stored turn, in the shape of the scene. */
export function endedTurn(turn) {
  const { id, messages, outcome, reply, actions, usage, timing, error, recalls = [], thinking } = turn;
  const text = { think: thinking ?? "", reply };
  return {
    turn: id, answers: [...messages], outcome, reply, actions, usage, timing, n: usage.completion,
    error: error ? { code: "", message: error } : null,
    segments: segmentsOf({ text, recalls }),
    startedAt: Date.parse(turn.started_at), endedAt: turn.ended_at ? Date.parse(turn.ended_at) : 0,
  };
}

/**
 * Put past exchanges into a scene: before what is there, and into it where a running turn's messages were not known.
 * @param {object} scene
 * @param {object[]} exchanges oldest first
 */
export function remember(scene, exchanges) {
  const added = [];
  for (const past of exchanges) {
    const known = scene.turns.get(past.turn) ?? awaited(scene, past);
    const isThere = past.messages.every((message) => scene.messages.has(message.id));
    if (known) fill(known, past);
    else if (!isThere) {
      scene.lastKey += 1;
      added.push({ key: scene.lastKey, rev: 0, ...past });
      if (past.turn !== null) scene.turns.set(past.turn, added.at(-1));
    }
    for (const message of past.messages) scene.messages.add(message.id);
  }
  scene.entries = [...scene.entries, ...added].sort((a, b) => a.at - b.at);
}

function awaited(scene, past) {
  const ids = new Set(past.messages.map((message) => message.id));
  return scene.entries.find((entry) => entry.kind === "exchange" && entry.conversation === past.conversation
    && (entry.answers.some((id) => ids.has(id)) || entry.messages.some((message) => ids.has(message.id))));
}

function fill(entry, past) {
  const have = new Set(entry.messages.map((message) => message.id));
  const missing = past.messages.filter((message) => !have.has(message.id));
  if (missing.length) entry.messages = [...missing, ...entry.messages].sort((a, b) => a.id - b.id);
  const ended = past.turn !== null && past.outcome !== "running";
  if (ended && (entry.outcome === "" || entry.outcome === "unknown")) {
    const { at, messages, ...turn } = past;
    Object.assign(entry, turn);
  }
  entry.rev += 1;
}
