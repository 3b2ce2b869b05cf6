/** A conversation as rows: what was said, and beside it each turn of the bot, in the order in which they happened. */

/**
 * Rows of messages and turns. The bot's message and the turn that wrote it are one row.
 * @param {object[]} messages by number
 * @param {Map<number, object>} turns by number
 * @returns {{key: string, kind: "day" | "message" | "turn", at: number, message?: object, turn?: object}[]}
 */
export function timeline(messages, turns) {
  const rows = messages.map((message) => {
    const turn = message.role === "assistant" ? turns.get(message.turn) : undefined;
    return { key: `m${message.id}`, kind: turn ? "turn" : "message", at: Date.parse(message.time), message, turn };
  });
  const written = new Set(rows.map((row) => row.turn?.id));
  const first = rows[0]?.at ?? 0;
  for (const turn of turns.values()) {
    const at = Date.parse(turn.started_at);
    if (!written.has(turn.id) && at >= first) rows.push({ key: `t${turn.id}`, kind: "turn", at, turn });
  }
  rows.sort((a, b) => a.at - b.at || (a.message?.id ?? 0) - (b.message?.id ?? 0));
  return withDays(rows);
}

function withDays(rows) {
  const found = [];
  let day = "";
  for (const row of rows) {
    const its = new Date(row.at).toDateString();
    if (its !== day) found.push({ key: `d${row.key}`, kind: "day", at: row.at });
    day = its;
    found.push(row);
  }
  return found;
}
