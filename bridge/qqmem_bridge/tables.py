"""The tables of bridge.db.

seen    every message of the last 7 days by (self_id, chat, message_id); `event` while it is not yet handed on
inbox   frames for the service by `seq`, and their `pictures`, until it has acked them
outbox  replies, and `parts`: the messages each became, with the outcome of each
paused  chats where nothing may be sent, and until when
"""

from __future__ import annotations

import sqlite3

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen (
  n INTEGER PRIMARY KEY, self_id TEXT NOT NULL, chat TEXT NOT NULL, message_id TEXT NOT NULL, user_id TEXT NOT NULL,
  at REAL NOT NULL, addressed INTEGER NOT NULL DEFAULT 0, withdrawn INTEGER NOT NULL DEFAULT 0, event TEXT,
  UNIQUE (self_id, chat, message_id));
CREATE INDEX IF NOT EXISTS seen_at ON seen (at);
CREATE INDEX IF NOT EXISTS seen_chat ON seen (chat, n);
CREATE TABLE IF NOT EXISTS inbox (seq INTEGER PRIMARY KEY, chat TEXT NOT NULL, at REAL NOT NULL, frame TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pictures (
  seq INTEGER NOT NULL REFERENCES inbox (seq) ON DELETE CASCADE ON UPDATE CASCADE, n INTEGER NOT NULL,
  content BLOB NOT NULL, PRIMARY KEY (seq, n));
CREATE TABLE IF NOT EXISTS outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT, delivery_id INTEGER NOT NULL, created TEXT NOT NULL, chat TEXT NOT NULL,
  at REAL NOT NULL, frame TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
  UNIQUE (delivery_id, created));
CREATE TABLE IF NOT EXISTS parts (
  outbox_id INTEGER NOT NULL REFERENCES outbox (id) ON DELETE CASCADE, n INTEGER NOT NULL, chat TEXT NOT NULL,
  text TEXT NOT NULL, state TEXT NOT NULL, message_id TEXT NOT NULL DEFAULT '', at REAL NOT NULL DEFAULT 0,
  folded TEXT NOT NULL DEFAULT '[]',
  PRIMARY KEY (outbox_id, n));
CREATE INDEX IF NOT EXISTS parts_message ON parts (chat, message_id);
CREATE TABLE IF NOT EXISTS paused (chat TEXT PRIMARY KEY, until REAL NOT NULL, reason TEXT NOT NULL);
"""


def prepare(connection: sqlite3.Connection, now: float) -> None:
    """Make what is missing. now: seconds since 1970. Raises sqlite3.Error if the file is none of ours."""
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.executescript(_TABLES)
    if "folded" not in {column[1] for column in connection.execute("PRAGMA table_info(parts)")}:
        connection.execute("ALTER TABLE parts ADD COLUMN folded TEXT NOT NULL DEFAULT '[]'")
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('born', ?)", (str(now),))
    # A new file begins above whatever an older one has reached, so that nothing is taken for stored already.
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('seq', ?)", (str(int(now)),))
