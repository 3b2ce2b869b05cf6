"""What bridges are to send, and what has become of it; how far each bridge has been heard; where the bot is muted.

A delivery is made in the transaction that stores the reply, and is waiting until its bridge has told its outcome or it
is too old. What was sent or dropped keeps no text here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from qqmem.bridge_tables import BridgeRow, DeliveryRow, MuteRow, SentRow
from qqmem.db import Database, MessageRow
from qqmem.records import Action, Incoming

MAX_AGE = timedelta(minutes=10)
"""What is older answers nobody any more."""
SLOW = timedelta(seconds=8)
"""A reply in a group that took longer quotes what it answers."""
_KEPT = timedelta(days=7)
_NEVER = datetime.min.replace(tzinfo=UTC)

Outcome = Literal["sent", "failed", "unknown"]
State = Literal["waiting", "dropped", "sent", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """Something that a bridge is to send. in_reply_to, quote, message_ids: ids of the platform.

    reason: why it was not sent. message_ids: under which it was.
    """

    id: int
    bridge: str
    conversation: str
    created: datetime
    state: State
    text: str = ""
    actions: tuple[Action, ...] = ()
    in_reply_to: tuple[str, ...] = ()
    quote: str | None = None
    reason: str = ""
    message_ids: tuple[str, ...] = ()


# ---- parts of other people's transactions ----------------------------------------------------------------------------


async def heard(session: AsyncSession, message: Incoming, *, is_new: bool = True) -> None:
    """A frame of a bridge is being stored. A new message shows where the bridge is, even if it counts anew."""
    if message.bridge:
        await _advance(session, message.bridge, message.seq, back=is_new)


async def hand_over(
    session: AsyncSession, turn: int, said: MessageRow, text: str, actions: Sequence[dict[str, Any]]
) -> None:
    """The reply of a turn is being stored: whoever brought in what it answers is to send it."""
    answered = select(MessageRow).where(MessageRow.turn_id == turn, MessageRow.role == "user", MessageRow.bridge != "")
    messages = (await session.scalars(answered.order_by(MessageRow.id))).all()
    if not messages:
        return
    last = messages[-1]
    quote = last.message_id if await _is_lost_sight_of(session, last, turn, said) else None
    ids = [one.message_id for one in messages if one.message_id and not one.withdrawn]
    payload = {"text": text, "actions": list(actions), "in_reply_to": ids, "quote": quote}
    row = _row(last.bridge, said.conversation_id, payload, said.stored_at)
    row.turn_id, row.message = turn, said.id
    session.add(row)


async def _is_lost_sight_of(session: AsyncSession, last: MessageRow, turn: int, said: MessageRow) -> bool:
    """Whether a reply below would not show what it answers: in a group, after a while or below what others said."""
    if not said.conversation_id.startswith("group:") or last.withdrawn:
        return False
    if said.stored_at - last.stored_at > SLOW:
        return True
    place = MessageRow.conversation_id == said.conversation_id, MessageRow.id > last.id, MessageRow.id < said.id
    others = place[0], place[1], place[2], MessageRow.role == "user", MessageRow.turn_id.is_distinct_from(turn)
    return await session.scalar(select(MessageRow.id).where(*others).limit(1)) is not None


async def named(session: AsyncSession, conversation: str, message_id: str) -> MessageRow | None:
    """The message of the bot that the platform gave this id."""
    row = await session.get(SentRow, (conversation, message_id))
    return None if row is None else await session.get(MessageRow, row.message)


async def withdrawn(session: AsyncSession, conversation: str, message_id: str) -> None:
    """A message is being taken back: what waits to be sent and answers nothing else is dropped."""
    waiting = DeliveryRow.conversation_id == conversation, DeliveryRow.state == "waiting"
    for row in await session.scalars(select(DeliveryRow).where(*waiting)):
        answered = row.payload["in_reply_to"]
        if message_id not in answered:
            continue
        left = [one for one in answered if one != message_id]
        quote = row.payload["quote"] if row.payload["quote"] != message_id else None
        row.payload = {**row.payload, "in_reply_to": left, "quote": quote}
        if not left:
            _close(row, "dropped", "withdrawn")


async def forget(session: AsyncSession, conversation: str) -> None:
    """A conversation is being deleted."""
    await session.execute(delete(DeliveryRow).where(DeliveryRow.conversation_id == conversation))


# ---- their own -------------------------------------------------------------------------------------------------------


class Deliveries:
    """Deliveries, bridges and mutes in one database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._mutes: dict[str, datetime | None] = {}

    async def load(self) -> None:
        """Read what is asked for without waiting; to be done before anything else."""
        async with self._db.read() as session:
            self._mutes = {row.conversation_id: row.until for row in await session.scalars(select(MuteRow))}

    def is_muted(self, conversation: str) -> bool:
        """Whether the bot may not talk there now."""
        until = self._mutes.get(conversation, _NEVER)
        return until is None or until > datetime.now(UTC)

    async def seq(self, bridge: str) -> int:
        """The last frame of a bridge that is stored; 0 if there is none."""
        async with self._db.read() as session:
            row = await session.get(BridgeRow, bridge)
            return 0 if row is None else row.seq

    async def greet(self, bridge: str) -> int:
        """As seq; from now on the bridge is known."""
        async with self._db.write() as session:
            row = await session.get(BridgeRow, bridge)
            if row is None:
                session.add(BridgeRow(name=bridge, seq=0))
            return 0 if row is None else row.seq

    async def advance(self, bridge: str, seq: int) -> None:
        """A frame has been obeyed that stores nothing else."""
        async with self._db.write() as session:
            await _advance(session, bridge, seq)

    async def answer(self, command: Incoming, text: str) -> None:
        """A command was obeyed: hand its answer over, where the bot may talk."""
        payload = {"text": text, "actions": [], "in_reply_to": [command.message_id], "quote": None}
        async with self._db.write() as session:
            await heard(session, command, is_new=False)
            if not self.is_muted(command.conversation):
                session.add(_row(command.bridge, command.conversation, payload, datetime.now(UTC)))

    async def waiting(self, bridge: str, after: int, limit: int = 50) -> list[Delivery]:
        """What a bridge is to send, with ids above `after`, in order."""
        mine = DeliveryRow.bridge == bridge, DeliveryRow.state == "waiting", DeliveryRow.id > after
        async with self._db.read() as session:
            rows = await session.scalars(select(DeliveryRow).where(*mine).order_by(DeliveryRow.id).limit(limit))
            return [_delivery(row) for row in rows]

    async def end(
        self, bridge: str, number: int, outcome: Outcome, message_ids: Sequence[str], reason: str
    ) -> Delivery | None:
        """What has become of a delivery, as its bridge tells. None if that is known already, or the delivery is not.

        A dropped one that was sent after all is sent.
        """
        async with self._db.write() as session:
            row = await session.get(DeliveryRow, number)
            if row is None or row.bridge != bridge or row.state not in ("waiting", "dropped"):
                return None
            _close(row, outcome, reason)
            row.message_ids = list(dict.fromkeys(message_ids))
            if row.message is not None:
                for one in row.message_ids:
                    await session.merge(
                        SentRow(conversation_id=row.conversation_id, message_id=one, message=row.message)
                    )
            return _delivery(row)

    async def drop(self, now: datetime) -> list[Delivery]:
        """Let go of what is too old to be sent. Returns it; what was over a week ago is deleted."""
        old = DeliveryRow.state == "waiting", DeliveryRow.created_at < now - MAX_AGE
        async with self._db.write() as session:
            await session.execute(delete(DeliveryRow).where(DeliveryRow.ended_at < now - _KEPT))
            rows = (await session.scalars(select(DeliveryRow).where(*old).order_by(DeliveryRow.id))).all()
            for row in rows:
                _close(row, "dropped", "too old")
            return [_delivery(row) for row in rows]

    async def count(self) -> tuple[int, int]:
        """Known bridges, and deliveries that wait."""
        async with self._db.read() as session:
            bridges = await session.scalar(select(func.count()).select_from(BridgeRow))
            waiting = select(func.count()).select_from(DeliveryRow).where(DeliveryRow.state == "waiting")
            return bridges or 0, await session.scalar(waiting) or 0

    async def settle(self, conversation: str) -> None:
        """Nobody waits for an answer any more."""
        owed = update(MessageRow).where(MessageRow.owed, MessageRow.conversation_id == conversation).values(owed=False)
        async with self._db.write() as session:
            await session.execute(owed)

    async def mute(self, conversation: str, until: datetime | None) -> None:
        """until: None if nobody knows."""
        async with self._db.write() as session:
            await session.merge(MuteRow(conversation_id=conversation, until=until))
        self._mutes[conversation] = until

    async def unmute(self, conversation: str) -> None:
        async with self._db.write() as session:
            await session.execute(delete(MuteRow).where(MuteRow.conversation_id == conversation))
        self._mutes.pop(conversation, None)


async def _advance(session: AsyncSession, bridge: str, seq: int, *, back: bool = False) -> None:
    row = await session.get(BridgeRow, bridge)
    if row is None:
        session.add(BridgeRow(name=bridge, seq=seq))
    elif back or seq > row.seq:
        row.seq = seq


def _row(bridge: str, conversation: str, payload: dict[str, Any], now: datetime) -> DeliveryRow:
    return DeliveryRow(
        bridge=bridge, conversation_id=conversation, payload=payload, state="waiting", message_ids=[], created_at=now
    )


def _close(row: DeliveryRow, state: State, reason: str) -> None:
    row.state, row.reason, row.payload, row.ended_at = state, reason, {}, datetime.now(UTC)


def _delivery(row: DeliveryRow) -> Delivery:
    state: Any = row.state
    found = Delivery(row.id, row.bridge, row.conversation_id, row.created_at, state, reason=row.reason)
    found = replace(found, message_ids=tuple(row.message_ids))
    if not row.payload:
        return found
    actions = tuple(Action(**action) for action in row.payload["actions"])
    ids = tuple(row.payload["in_reply_to"])
    return replace(found, text=row.payload["text"], actions=actions, in_reply_to=ids, quote=row.payload["quote"])
