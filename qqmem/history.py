"""Conversations, messages and turns: every query, answered with frozen records.

The order of messages is the order of their ids, which is the order in which they were stored; what a sender says
about the time is shown, never trusted. A method that writes is one transaction, done when it returns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Literal, cast

from sqlalchemy import ColumnElement, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from qqmem.db import ConversationRow, Database, MessageRow, TurnRow
from qqmem.errors import NotFound

Role = Literal["user", "assistant"]

Outcome = Literal["running", "replied", "no_reply", "superseded", "cancelled", "failed", "interrupted"]
"""How a turn ended. running: it has not. interrupted: the program died while it ran."""

_EXPORT_PAGE = 500


@dataclass(frozen=True, slots=True)
class Sender:
    """Who said it. card: the name in that group. role: of the group, `owner`, `admin` or `member`."""

    id: str
    name: str
    card: str = ""
    role: str = ""

    @property
    def shown(self) -> str:
        """The name that the others see."""
        return self.card or self.name


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message to be stored.

    conversation: `private:<qq>` or `group:<gid>`.
    time: when it was said, with a zone.
    message_id: the platform's; a second message with the same one is a duplicate.
    reply_to: the platform's id of the message that it quotes.
    addressed: the platform says that it is meant for the bot.
    name: of the conversation, if known.
    """

    conversation: str
    sender: Sender
    text: str
    time: datetime
    message_id: str | None = None
    reply_to: str | None = None
    addressed: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message.

    sender: its name is the one that was shown, its card is empty.
    turn: which wrote it (assistant), or which answered it last (user).
    """

    id: int
    conversation: str
    role: Role
    message_id: str | None
    sender: Sender
    text: str
    reply_to: str | None
    addressed: bool
    time: datetime
    turn: int | None
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class Action:
    """Something the bot does besides talking."""

    type: Literal["EMOJI_LIKE", "POKE"]
    emoji_id: int | None = None
    message_id: str | None = None
    user_id: str | None = None
    target: Literal["message", "user"] = "message"


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What became of a turn, under the names of the columns. Seconds count from submission to the engine."""

    outcome: Outcome
    reply: str = ""
    thinking: str = ""
    actions: tuple[Action, ...] = ()
    error: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One attempt to answer. messages: the ids of those that no later turn has answered."""

    id: int
    conversation: str
    started_at: datetime
    ended_at: datetime | None
    end: TurnEnd
    messages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One private chat or group. name: the last known one of the group or person."""

    id: str
    name: str
    created_at: datetime
    updated_at: datetime
    num_messages: int


class History:
    """What was said, in one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, message: Incoming) -> tuple[Message, bool]:
        """Store a message. Returns it and True, or the one stored before under its platform id and False."""
        async with self._db.write() as session:
            known = await _find(session, message.conversation, message.message_id)
            if known is not None:
                return _message(known), False
            return await _store(session, message, "user"), True

    async def begin_turn(self, conversation: str, messages: Sequence[int]) -> int:
        """Start a turn that answers these messages. Raises NotFound."""
        async with self._db.write() as session:
            await _require(session, conversation)
            row = TurnRow(conversation_id=conversation, started_at=datetime.now(UTC), outcome="running")
            session.add(row)
            await session.flush()
            answered = MessageRow.conversation_id == conversation, MessageRow.id.in_(messages)
            await session.execute(update(MessageRow).where(*answered).values(turn_id=row.id))
            return row.id

    async def end_turn(self, turn: int, end: TurnEnd) -> Message | None:
        """End a running turn and store what the bot said: its reply, or "" for silence (no_reply).

        Returns that message; None for other outcomes, and for a turn that has ended or is gone: nothing changes.
        """
        async with self._db.write() as session:
            row = await session.get(TurnRow, turn)
            if row is None or row.ended_at is not None:
                return None
            row.ended_at = datetime.now(UTC)
            for column, value in asdict(end).items():
                setattr(row, column, value)
            if end.outcome not in ("replied", "no_reply"):
                return None
            text = end.reply if end.outcome == "replied" else ""
            said = Incoming(row.conversation_id, Sender(id="", name=""), text, row.ended_at)
            return await _store(session, said, "assistant", turn)

    async def turn(self, turn: int) -> Turn | None:
        found = await self._turns(TurnRow.id == turn)
        return found[0] if found else None

    async def recent(self, conversation: str, limit: int, since: int = 0) -> list[Message]:
        """The newest messages, from id `since` on, oldest first; withdrawn ones are left out."""
        async with self._db.read() as session:
            return await _newest(session, conversation, limit, MessageRow.id >= since, ~MessageRow.withdrawn)

    async def withdraw(self, conversation: str, message_id: str) -> Message | None:
        """Mark a message, named by its platform id, as taken back. None if it is unknown."""
        async with self._db.write() as session:
            row = await _find(session, conversation, message_id)
            if row is None:
                return None
            row.withdrawn = True
            return _message(row)

    async def conversation(self, conversation: str) -> Conversation:
        async with self._db.read() as session:
            await _require(session, conversation)
            return (await _last_updated(session, 1, ConversationRow.id == conversation))[0]

    async def conversations(self, limit: int, before: str | None = None) -> list[Conversation]:
        """A page of conversations, the last updated of all or of those before one; last first. Raises NotFound."""
        async with self._db.read() as session:
            if before is None:
                return await _last_updated(session, limit)
            last = await _require(session, before)
            place = tuple_(ConversationRow.updated_at, ConversationRow.id)
            return await _last_updated(session, limit, place < (last.updated_at, last.id))

    async def messages(self, conversation: str, limit: int, before: int | None = None) -> list[Message]:
        """A page of messages, the newest of all or of those before an id; oldest first. Raises NotFound."""
        older = [] if before is None else [MessageRow.id < before]
        async with self._db.read() as session:
            await _require(session, conversation)
            return await _newest(session, conversation, limit, *older)

    async def turns(self, conversation: str, ids: Collection[int]) -> list[Turn]:
        """Those of the turns that belong to this conversation, oldest first."""
        return await self._turns(TurnRow.conversation_id == conversation, TurnRow.id.in_(ids))

    async def export(self, conversation: str) -> AsyncGenerator[Message | Turn]:
        """Everything that is stored: first all messages, then all turns, oldest first. Raises NotFound."""
        async with self._db.read() as session:
            await _require(session, conversation)
        last = 0
        while messages := await self._messages_after(conversation, last):
            for message in messages:
                yield message
            last = messages[-1].id
        mine, last = TurnRow.conversation_id == conversation, 0
        while turns := await self._turns(mine, TurnRow.id > last, limit=_EXPORT_PAGE):
            for turn in turns:
                yield turn
            last = turns[-1].id

    async def delete(self, conversation: str) -> None:
        """Delete a conversation with all of its messages and turns. Raises NotFound."""
        async with self._db.write() as session:
            # The tables know what hangs on it (ON DELETE CASCADE).
            await session.delete(await _require(session, conversation))

    async def recover(self) -> int:
        """Mark the turns that a crash left running as interrupted. Returns how many."""
        ended = {"outcome": "interrupted", "ended_at": datetime.now(UTC)}
        left = update(TurnRow).where(TurnRow.ended_at.is_(None)).values(ended).returning(TurnRow.id)
        async with self._db.write() as session:
            return len((await session.scalars(left)).all())

    async def _messages_after(self, conversation: str, last: int) -> list[Message]:
        query = select(MessageRow).where(MessageRow.conversation_id == conversation, MessageRow.id > last)
        async with self._db.read() as session:
            rows = await session.scalars(query.order_by(MessageRow.id).limit(_EXPORT_PAGE))
            return [_message(row) for row in rows]

    async def _turns(self, *where: ColumnElement[bool], limit: int | None = None) -> list[Turn]:
        query = select(TurnRow).where(*where).order_by(TurnRow.id).limit(limit)
        answers = select(MessageRow.turn_id, MessageRow.id).where(MessageRow.role == "user").order_by(MessageRow.id)
        answered: dict[int | None, list[int]] = defaultdict(list)
        async with self._db.read() as session:
            rows = (await session.scalars(query)).all()
            these = MessageRow.turn_id.in_([row.id for row in rows])
            for turn, message in await session.execute(answers.where(these)):
                answered[turn].append(message)
        return [_turn(row, answered[row.id]) for row in rows]


async def _require(session: AsyncSession, conversation: str) -> ConversationRow:
    row = await session.get(ConversationRow, conversation)
    if row is None:
        raise NotFound(f"There is no conversation {conversation}.")
    return row


async def _find(session: AsyncSession, conversation: str, message_id: str | None) -> MessageRow | None:
    if not message_id:
        return None
    key = MessageRow.conversation_id == conversation, MessageRow.message_id == message_id
    return await session.scalar(select(MessageRow).where(*key))


async def _store(session: AsyncSession, message: Incoming, role: Role, turn: int | None = None) -> Message:
    now = datetime.now(UTC)
    await _touch(session, message, now)
    row = MessageRow(
        conversation_id=message.conversation,
        role=role,
        message_id=message.message_id or None,
        sender_id=message.sender.id,
        sender_name=message.sender.shown,
        sender_role=message.sender.role,
        text=message.text,
        reply_to=message.reply_to,
        addressed=message.addressed,
        time=message.time,
        stored_at=now,
        turn_id=turn,
        withdrawn=False,
    )
    session.add(row)
    await session.flush()
    return _message(row)


async def _touch(session: AsyncSession, message: Incoming, now: datetime) -> None:
    """Make the conversation, or note that it goes on, perhaps under a new name."""
    row = await session.get(ConversationRow, message.conversation)
    if row is None:
        row = ConversationRow(id=message.conversation, name="", created_at=now)
        session.add(row)
    person = message.sender.shown if message.conversation.startswith("private:") else ""
    row.name = message.name or person or row.name
    row.updated_at = now


async def _last_updated(session: AsyncSession, limit: int, *where: ColumnElement[bool]) -> list[Conversation]:
    count = select(func.count(MessageRow.id)).where(MessageRow.conversation_id == ConversationRow.id)
    query = select(ConversationRow, count.scalar_subquery()).where(*where).limit(limit)
    found = await session.execute(query.order_by(ConversationRow.updated_at.desc(), ConversationRow.id.desc()))
    return [Conversation(row.id, row.name, row.created_at, row.updated_at, num) for row, num in found]


async def _newest(session: AsyncSession, conversation: str, limit: int, *where: ColumnElement[bool]) -> list[Message]:
    query = select(MessageRow).where(MessageRow.conversation_id == conversation, *where)
    rows = (await session.scalars(query.order_by(MessageRow.id.desc()).limit(limit))).all()
    return [_message(row) for row in reversed(rows)]


def _message(row: MessageRow) -> Message:
    return Message(
        id=row.id,
        conversation=row.conversation_id,
        role=cast(Role, row.role),
        message_id=row.message_id,
        sender=Sender(id=row.sender_id, name=row.sender_name, role=row.sender_role),
        text=row.text,
        reply_to=row.reply_to,
        addressed=row.addressed,
        time=row.time,
        turn=row.turn_id,
        withdrawn=row.withdrawn,
    )


def _turn(row: TurnRow, messages: Iterable[int]) -> Turn:
    end = {field.name: getattr(row, field.name) for field in fields(TurnEnd)}
    end["actions"] = tuple(Action(**action) for action in row.actions)
    return Turn(row.id, row.conversation_id, row.started_at, row.ended_at, TurnEnd(**end), tuple(messages))
