"""What must survive a kill: messages on their way to the service, replies on their way to QQ. One SQLite file.

One thread owns the connection. Each method is one transaction.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from qqmem_bridge.messages import Incoming
from qqmem_bridge.tables import prepare
from qqmem_bridge.transport import Event
from qqmem_bridge.wire import Delivery

T = TypeVar("T")
State = Literal["queued", "sending", "sent", "failed", "unknown"]
Frame = dict[str, Any]

NO_PICTURES: Mapping[str, Sequence[bytes]] = {}
KEPT = 7 * 86400.0
"""Seconds for which a message is known again."""
MOST_OF_CHAT = 200
"""Frames of one chat that wait for the service."""


@dataclass(frozen=True, slots=True)
class Part:
    """One message of a reply. at: when it was last given to QQ's side, seconds since 1970.

    folded: the messages of a forwarded chat, if it is one; then text is what is sent if it is not taken.
    """

    n: int
    text: str
    state: State
    message_id: str
    at: float
    folded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """A reply in the outbox. at: when it came here, seconds since 1970."""

    id: int
    delivery: Delivery
    at: float
    state: State
    reason: str
    parts: tuple[Part, ...]

    @property
    def over(self) -> bool:
        return self.state in ("sent", "failed", "unknown")


@dataclass(frozen=True, slots=True)
class Seen:
    """A message as the bridge remembers it. others: messages of other people in the chat since."""

    user_id: str
    at: float
    addressed: bool
    withdrawn: bool
    others: int


class Store:
    """Opens or makes the file; close() when done."""

    def __init__(self, path: Path, now: float) -> None:
        self._path = path
        self._now = now
        self._thread = ThreadPoolExecutor(1, "store")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Raises sqlite3.Error if the file is none of ours."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        prepare(self._connection, self._now)

    async def close(self) -> None:
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=False)  # the connection is closed, there is nothing to wait for

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def transaction() -> T:
            assert self._connection is not None, "open() comes first"
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                found = work(self._connection)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            return found

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)

    # ---- small things

    async def get(self, key: str) -> str | None:
        row = await self._do(lambda c: c.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone())
        return None if row is None else str(row[0])

    async def put(self, key: str, value: str) -> None:
        await self._do(lambda c: c.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value)))

    async def forget_old(self, now: float) -> None:
        """Drop what is older than KEPT and has been dealt with."""

        def work(c: sqlite3.Connection) -> None:
            c.execute("DELETE FROM seen WHERE at < ?", (now - KEPT,))
            c.execute("DELETE FROM outbox WHERE at < ? AND state NOT IN ('queued', 'sending')", (now - KEPT,))
            c.execute("DELETE FROM paused WHERE until < ?", (now,))

        await self._do(work)

    # ---- towards the service

    async def see(self, message: Incoming, event: Event | None, now: float) -> bool:
        """Whether a message is new. event: what is to be handed on; None for one that only must be known."""
        raw = None if event is None else json.dumps(event)
        values = (message.self_id, message.chat, message.message_id, message.user_id, now, raw)
        sql = "INSERT OR IGNORE INTO seen (self_id, chat, message_id, user_id, at, event) VALUES (?, ?, ?, ?, ?, ?)"
        return await self._do(lambda c: c.execute(sql, values).rowcount == 1)

    async def unfinished(self) -> list[Event]:
        """Messages that were seen and not handed on: the program was killed in between."""
        rows = await self._do(
            lambda c: c.execute("SELECT event FROM seen WHERE event IS NOT NULL ORDER BY n").fetchall()
        )
        return [json.loads(raw) for (raw,) in rows]

    async def hand_on(
        self, chat: str, frames: Sequence[Frame], now: float, pictures: Mapping[str, Sequence[bytes]] = NO_PICTURES
    ) -> int:
        """Queue frames for the service, in order. Returns how many older ones of the chat had to go for them.

        pictures: by the ids of their messages.
        """

        def work(c: sqlite3.Connection) -> int:
            (last,) = c.execute("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'seq'").fetchone()
            for seq, frame in enumerate(frames, last + 1):
                c.execute("INSERT INTO inbox VALUES (?, ?, ?, ?)", (seq, chat, now, json.dumps(frame)))
                if frame["type"] == "message":
                    for n, content in enumerate(pictures.get(frame["message_id"], ())):
                        c.execute("INSERT INTO pictures VALUES (?, ?, ?)", (seq, n, content))
                    c.execute(
                        "UPDATE seen SET event = NULL, addressed = ? WHERE chat = ? AND message_id = ?",
                        (frame["addressed"], chat, frame["message_id"]),
                    )
            c.execute("UPDATE meta SET value = ? WHERE key = 'seq'", (str(last + len(frames)),))
            return c.execute(
                "DELETE FROM inbox WHERE seq IN "
                "(SELECT seq FROM inbox WHERE chat = ? ORDER BY seq DESC LIMIT -1 OFFSET ?) "
                "AND json_extract(frame, '$.type') != 'withdraw'",  # the service may have what was taken back
                (chat, MOST_OF_CHAT),
            ).rowcount

        return await self._do(work)

    async def drop_message(self, chat: str, message_id: str) -> None:
        """A message that was withdrawn before it was handed on."""
        sql = "UPDATE seen SET event = NULL WHERE chat = ? AND message_id = ?"
        await self._do(lambda c: c.execute(sql, (chat, message_id)))

    async def frames(self, after: int, most: int = 100) -> list[tuple[int, float, Frame]]:
        """(seq, time of arrival, frame) above a seq, in order."""
        sql = "SELECT seq, at, frame FROM inbox WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = await self._do(lambda c: c.execute(sql, (after, most)).fetchall())
        return [(seq, at, json.loads(frame)) for seq, at, frame in rows]

    async def pictures(self, seq: int) -> list[bytes]:
        """Of the message in a frame."""
        sql = "SELECT content FROM pictures WHERE seq = ? ORDER BY n"
        return [content for (content,) in await self._do(lambda c: c.execute(sql, (seq,)).fetchall())]

    async def acked(self, seq: int) -> None:
        """The service has stored a frame."""
        await self._do(lambda c: c.execute("DELETE FROM inbox WHERE seq = ?", (seq,)))

    async def resume(self, seq: int) -> bool:
        """The service has stored all frames up to this one.

        Whether it has more than this file knows of: the file is new, or an old copy. Then what waits here is something
        else than what the service has under these numbers, and is counted on above them.
        """

        def work(c: sqlite3.Connection) -> bool:
            (last,) = c.execute("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'seq'").fetchone()
            if seq <= last:
                c.execute("DELETE FROM inbox WHERE seq <= ?", (seq,))
                return False
            waiting = c.execute("SELECT seq FROM inbox ORDER BY seq DESC").fetchall()
            for n, (old,) in enumerate(waiting):  # the highest first: no two meet
                c.execute("UPDATE inbox SET seq = ? WHERE seq = ?", (seq + len(waiting) - n, old))
            c.execute("UPDATE meta SET value = ? WHERE key = 'seq'", (str(seq + len(waiting)),))
            return True

        return await self._do(work)

    async def depth(self) -> tuple[int, int]:
        """How many frames wait for the service, and how many replies for QQ."""

        def work(c: sqlite3.Connection) -> tuple[int, int]:
            (inbox,) = c.execute("SELECT count(*) FROM inbox").fetchone()
            (outbox,) = c.execute("SELECT count(*) FROM outbox WHERE state IN ('queued', 'sending')").fetchone()
            return inbox, outbox

        return await self._do(work)

    # ---- what is known of messages

    async def seen(self, chat: str, message_id: str) -> Seen | None:
        def work(c: sqlite3.Connection) -> Seen | None:
            row = c.execute(
                "SELECT n, user_id, at, addressed, withdrawn FROM seen WHERE chat = ? AND message_id = ?",
                (chat, message_id),
            ).fetchone()
            if row is None:
                return None
            n, user, at, addressed, withdrawn = row
            sql = "SELECT count(*) FROM seen WHERE chat = ? AND n > ? AND user_id != ?"
            (others,) = c.execute(sql, (chat, n, user)).fetchone()
            return Seen(user, at, bool(addressed), bool(withdrawn), others)

        return await self._do(work)

    async def withdraw(self, chat: str, message_id: str) -> None:
        """A person took a message back."""
        sql = "UPDATE seen SET withdrawn = 1, event = NULL WHERE chat = ? AND message_id = ?"
        await self._do(lambda c: c.execute(sql, (chat, message_id)))

    async def chats_seen(self) -> set[str]:
        rows = await self._do(lambda c: c.execute("SELECT DISTINCT chat FROM seen").fetchall())
        return {chat for (chat,) in rows}

    async def is_ours(self, chat: str, message_id: str) -> bool:
        """Whether the bot has sent this message."""
        sql = "SELECT 1 FROM parts WHERE chat = ? AND message_id = ?"
        return await self._do(lambda c: c.execute(sql, (chat, message_id)).fetchone()) is not None

    # ---- towards QQ

    async def accept(
        self, delivery: Delivery, texts: Sequence[str], now: float, folded: Sequence[str] = ()
    ) -> tuple[Stored, bool]:
        """Store a reply with its messages, and whether it is new. Negative ids are the bridge's own.

        folded: the last of the messages as a forwarded chat, if it is to be one.
        """

        def work(c: sqlite3.Connection) -> tuple[Stored, bool]:
            key = (delivery.delivery_id, delivery.created)
            new = c.execute(
                "INSERT OR IGNORE INTO outbox (delivery_id, created, chat, at, frame, state) "
                "VALUES (?, ?, ?, ?, ?, 'queued')",
                (*key, delivery.conversation, now, delivery.model_dump_json()),
            ).rowcount
            (found,) = c.execute("SELECT id FROM outbox WHERE delivery_id = ? AND created = ?", key).fetchone()
            if new:
                for n, text in enumerate(texts):
                    inside = json.dumps(folded if n == len(texts) - 1 else [])
                    sql = "INSERT INTO parts (outbox_id, n, chat, text, state, folded) VALUES (?, ?, ?, ?, 'queued', ?)"
                    c.execute(sql, (found, n, delivery.conversation, text, inside))
            return _stored(c, found), new == 1

        return await self._do(work)

    async def unsent(self) -> list[Stored]:
        """Replies whose outcome is open, in order."""

        def work(c: sqlite3.Connection) -> list[Stored]:
            rows = c.execute("SELECT id FROM outbox WHERE state IN ('queued', 'sending') ORDER BY id").fetchall()
            return [_stored(c, row[0]) for row in rows]

        return await self._do(work)

    async def mark(self, reply: int, n: int, state: State, now: float, message_id: str = "") -> None:
        """What became of one message of a reply."""

        def work(c: sqlite3.Connection) -> None:
            c.execute(
                "UPDATE parts SET state = ?, message_id = ?, at = CASE WHEN ? = 'sending' THEN ? ELSE at END "
                "WHERE outbox_id = ? AND n = ?",
                (state, message_id, state, now, reply, n),
            )
            if state == "sending":
                c.execute("UPDATE outbox SET state = 'sending' WHERE id = ?", (reply,))

        await self._do(work)

    async def finish(self, reply: int, state: State, reason: str) -> Stored:
        """What became of a reply."""

        def work(c: sqlite3.Connection) -> Stored:
            c.execute("UPDATE outbox SET state = ?, reason = ? WHERE id = ?", (state, reason, reply))
            return _stored(c, reply)

        return await self._do(work)

    async def sent_ids(self, chat: str) -> set[str]:
        """Ids of the bot's own messages in a chat."""
        sql = "SELECT message_id FROM parts WHERE chat = ? AND message_id != ''"
        return {row[0] for row in await self._do(lambda c: c.execute(sql, (chat,)).fetchall())}

    # ---- chats where nothing may be sent

    async def pause(self, chat: str, until: float, reason: str) -> None:
        await self._do(lambda c: c.execute("INSERT OR REPLACE INTO paused VALUES (?, ?, ?)", (chat, until, reason)))

    async def lift(self, chat: str) -> None:
        await self._do(lambda c: c.execute("DELETE FROM paused WHERE chat = ?", (chat,)))

    async def paused(self, chat: str, now: float) -> str | None:
        """Why nothing may be sent to a chat now; None if it may."""
        sql = "SELECT reason FROM paused WHERE chat = ? AND until > ?"
        row = await self._do(lambda c: c.execute(sql, (chat, now)).fetchone())
        return None if row is None else str(row[0])


def _stored(c: sqlite3.Connection, found: int) -> Stored:
    frame, at, state, reason = c.execute(
        "SELECT frame, at, state, reason FROM outbox WHERE id = ?", (found,)
    ).fetchone()
    sql = "SELECT n, text, state, message_id, at, folded FROM parts WHERE outbox_id = ? ORDER BY n"
    rows = c.execute(sql, (found,))
    parts = tuple(Part(n, text, told, sent, at, tuple(json.loads(folded))) for n, text, told, sent, at, folded in rows)
    delivery = Delivery.model_construct(**_tuples(json.loads(frame)))
    return Stored(found, delivery, at, state, reason, parts)


def _tuples(frame: Frame) -> Frame:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in frame.items()}
