"""Conversations, messages and turns: every query, answered with frozen records.

The order of messages is the order of their ids, which is the order in which they were stored; what a sender says
about the time is shown, never trusted. A method that writes is one transaction, done when it returns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from qqmem import deliveries, uploads
from qqmem.db import ConversationRow, Database, MessageRow, RecallRow, TurnRow
from qqmem.errors import NotFound
from qqmem.records import Action, Conversation, Incoming, Message, Recall, Role, Sender, Size, Turn, TurnEnd

_EXPORT_PAGE = 500
_COLUMNS = tuple(field.name for field in fields(TurnEnd) if field.name not in ("actions", "recalls"))


class History:
    """What was said, in one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, message: Incoming, *, owed: bool = False) -> tuple[Message, bool]:
        """Store a message. Returns it and True, or the one stored before under its platform id and False.

        owed: a bridge is owed an answer, and `owed` tells of it until there is one.
        """
        async with self._db.write() as session:
            known = await _find(session, message.conversation, message.message_id)
            await deliveries.heard(session, message, is_new=known is None)
            if known is not None:
                return _message(known), False
            return _message(await _store(session, message, "user", owed=owed)), True

    async def owed(self, since: datetime) -> list[Message]:
        """Messages of bridges that were stored since then and are yet to be answered; older ones never will be."""
        async with self._db.write() as session:
            late = update(MessageRow).where(MessageRow.owed, MessageRow.stored_at < since)
            await session.execute(late.values(owed=False))
            rows = await session.scalars(select(MessageRow).where(MessageRow.owed).order_by(MessageRow.id))
            return [_message(row) for row in rows]

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

    async def end_turn(self, turn: int, end: TurnEnd, *, again: bool = False) -> Message | None:
        """End a running turn and store what the bot said: its reply, or "" for silence (no_reply).

        Returns that message; None for other outcomes, and for a turn that has ended or is gone: nothing changes.
        A bridge that brought in what it answers is handed the reply. again: what it answers remains to be answered.
        """
        async with self._db.write() as session:
            row = await session.get(TurnRow, turn)
            if row is None or row.ended_at is not None:
                return None
            row.ended_at = datetime.now(UTC)
            for column in _COLUMNS:
                setattr(row, column, getattr(end, column))
            row.actions = [asdict(action) for action in end.actions]
            session.add_all(_recall_row(turn, n, recall) for n, recall in enumerate(end.recalls, 1))
            if not again:
                await session.execute(update(MessageRow).where(MessageRow.turn_id == turn).values(owed=False))
            if end.outcome not in ("replied", "no_reply"):
                return None
            text = end.reply if end.outcome == "replied" else ""
            said = await _store(
                session, Incoming(row.conversation_id, Sender(id="", name=""), text, row.ended_at), "assistant", turn
            )
            if end.outcome == "replied":
                await deliveries.hand_over(session, turn, said, text, row.actions)
            return _message(said)

    async def turn(self, turn: int) -> Turn | None:
        found = await self._turns(TurnRow.id == turn)
        return found[0] if found else None

    async def recalled(self, conversation: str, turns: int) -> set[int]:
        """The memories that came into the last turns of a conversation that have ended."""
        last = select(TurnRow.id).where(TurnRow.conversation_id == conversation, TurnRow.ended_at.is_not(None))
        these = RecallRow.turn_id.in_(last.order_by(TurnRow.id.desc()).limit(turns))
        query = select(RecallRow.memory_id).where(these, RecallRow.memory_id.is_not(None))
        async with self._db.read() as session:
            return {memory for memory in await session.scalars(query) if memory is not None}

    async def recent(self, conversation: str, limit: int, since: int = 0) -> list[Message]:
        """The newest messages since `start_over`, from id `since` on, oldest first; withdrawn ones are left out."""
        begins = select(ConversationRow.begins_at).where(ConversationRow.id == conversation).scalar_subquery()
        where = MessageRow.id >= since, MessageRow.id >= begins, ~MessageRow.withdrawn
        async with self._db.read() as session:
            return await _newest(session, conversation, limit, *where)

    async def start_over(self, conversation: str, waiting: int | None = None) -> None:
        """Have prompts begin behind the last message, or at one that waits for its answer. All stays stored."""
        async with self._db.write() as session:
            row = await session.get(ConversationRow, conversation)
            if row is None:  # nothing was said yet
                return
            own = MessageRow.conversation_id == conversation
            last = await session.scalar(select(func.max(MessageRow.id)).where(own)) or 0
            row.begins_at = last + 1 if waiting is None else waiting

    async def find(self, conversation: str, message_id: str) -> Message | None:
        """A message by its platform id."""
        async with self._db.read() as session:
            row = await _find(session, conversation, message_id)
            return None if row is None else _message(row)

    async def withdraw(self, conversation: str, message_id: str) -> Message | None:
        """Mark a message, named by its platform id, as taken back; it needs no answer. None if it is unknown."""
        async with self._db.write() as session:
            row = await _find(session, conversation, message_id)
            if row is None:
                return None
            row.withdrawn, row.owed = True, False
            await deliveries.withdrawn(session, conversation, message_id)
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

    async def search(
        self, words: Sequence[str], limit: int, before: int | None = None, *, conversation: str | None = None
    ) -> list[Message]:
        """A page of messages that have all of these words, in any case of letters; newest first."""
        where = [MessageRow.text.contains(word, autoescape=True) for word in words]
        if before is not None:
            where.append(MessageRow.id < before)
        if conversation is not None:
            where.append(MessageRow.conversation_id == conversation)
        query = select(MessageRow).where(*where).order_by(MessageRow.id.desc()).limit(limit)
        async with self._db.read() as session:
            return [_message(row) for row in await session.scalars(query)]

    async def some(self, ids: Collection[int]) -> list[Message]:
        """Those of these messages that there are, in the order of their ids."""
        query = select(MessageRow).where(MessageRow.id.in_(ids)).order_by(MessageRow.id)
        async with self._db.read() as session:
            return [_message(row) for row in await session.scalars(query)]

    async def said_after(self, conversation: str, last: int, limit: int) -> list[Message]:
        """What people said behind a message, oldest first; withdrawn messages are left out."""
        said = MessageRow.conversation_id == conversation, MessageRow.id > last, MessageRow.role == "user"
        query = select(MessageRow).where(*said, ~MessageRow.withdrawn).order_by(MessageRow.id).limit(limit)
        async with self._db.read() as session:
            return [_message(row) for row in await session.scalars(query)]

    async def last_ids(self) -> dict[str, int]:
        """The id of the last message of every conversation."""
        query = select(MessageRow.conversation_id, func.max(MessageRow.id).label("last"))
        query = query.group_by(MessageRow.conversation_id)
        async with self._db.read() as session:
            return {row.conversation_id: row.last for row in await session.execute(query)}

    async def turns(self, conversation: str, ids: Collection[int]) -> list[Turn]:
        """Those of the turns that belong to this conversation, oldest first."""
        return await self._turns(TurnRow.conversation_id == conversation, TurnRow.id.in_(ids))

    async def turns_since(self, conversation: str, first: int, before: int | None = None) -> list[Turn]:
        """The turns that began since the message with the one id was stored, and before that with the other."""

        def stored(message: int) -> Any:
            from_here = select(MessageRow.stored_at).where(MessageRow.id >= message).order_by(MessageRow.id)
            return from_here.limit(1).scalar_subquery()

        where = [TurnRow.conversation_id == conversation, TurnRow.started_at >= stored(first)]
        if before is not None:
            where.append(func.coalesce(TurnRow.started_at < stored(before), True))
        return await self._turns(*where)

    async def size(self) -> Size:
        """How much there is."""
        tables = ConversationRow, MessageRow, TurnRow
        counts = [select(func.count()).select_from(table).scalar_subquery() for table in tables]
        async with self._db.read() as session:
            return Size(*(await session.execute(select(*counts))).one())

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
            await deliveries.forget(session, conversation)
            # The tables know what else hangs on it (ON DELETE CASCADE).
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
        recalls: dict[int, list[RecallRow]] = defaultdict(list)
        async with self._db.read() as session:
            rows = (await session.scalars(query)).all()
            ids = [row.id for row in rows]
            for turn, message in await session.execute(answers.where(MessageRow.turn_id.in_(ids))):
                answered[turn].append(message)
            of_these = select(RecallRow).where(RecallRow.turn_id.in_(ids)).order_by(RecallRow.id)
            for recall in await session.scalars(of_these):
                recalls[recall.turn_id].append(recall)
        return [_turn(row, answered[row.id], recalls[row.id]) for row in rows]


async def _require(session: AsyncSession, conversation: str) -> ConversationRow:
    row = await session.get(ConversationRow, conversation)
    if row is None:
        raise NotFound(f"There is no conversation {conversation}.")
    return row


async def _find(session: AsyncSession, conversation: str, message_id: str | None) -> MessageRow | None:
    if not message_id:
        return None
    key = MessageRow.conversation_id == conversation, MessageRow.message_id == message_id
    found = await session.scalar(select(MessageRow).where(*key))
    return found if found is not None else await deliveries.named(session, conversation, message_id)


async def _store(
    session: AsyncSession, message: Incoming, role: Role, turn: int | None = None, *, owed: bool = False
) -> MessageRow:
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
        bridge=message.bridge,
        owed=owed,
    )
    session.add(row)
    await session.flush()
    await uploads.claim(session, row, message.images)
    return row


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


def _recall_row(turn: int, n: int, recall: Recall) -> RecallRow:
    candidates = list(recall.candidates)
    return RecallRow(
        turn_id=turn, n=n, cue=recall.cue, mode=recall.mode, memory_id=recall.memory, candidates=candidates
    )


def _recall(row: RecallRow) -> Recall:
    return Recall(row.cue, cast(Any, row.mode), row.memory_id, tuple(row.candidates))


def _turn(row: TurnRow, messages: Iterable[int], recalls: Iterable[RecallRow]) -> Turn:
    end: dict[str, Any] = {column: getattr(row, column) for column in _COLUMNS}
    end["actions"] = tuple(Action(**action) for action in row.actions)
    end["recalls"] = tuple(map(_recall, recalls))
    return Turn(row.id, row.conversation_id, row.started_at, row.ended_at, TurnEnd(**end), tuple(messages))
