"""How records enter the tables: in bulk, without what was forgotten and what is there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, tuple_
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from qqmem.db import ConversationRow, MessageRow
from qqmem.errors import InvalidRequest
from qqmem.memory.rules import digest
from qqmem.memory.store_rows import among, new_event, row_of, searchable
from qqmem.memory.store_words import enter_words
from qqmem.memory.tables import MemoryPointRow, MemoryRow, MemorySourceRow, MemoryTombstoneRow
from qqmem.memory.types import Memory

_BATCH = 100
"""Rows that are made at a time; more would hold up the event loop."""


@dataclass(frozen=True, slots=True)
class Point:
    """How far a conversation has been remembered: the ids of the last messages that were indexed, and read for facts.

    0 for none; where a point is moved, 0 leaves it where it is.
    """

    conversation: str
    indexed_to: int = 0
    extracted_to: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    """What became of a record. row: None if it is not to be stored. is_new: False if it was there already."""

    row: MemoryRow | None
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked record to be stored, and the words by which it is found."""

    memory: Memory
    words: str


async def put(session: AsyncSession, drafts: Sequence[Draft], actor: str, reason: str) -> list[Put]:
    """Store what is new of them; for each of them, what became of it.

    Refused is what its owner had forgotten, and what comes from a withdrawn message. What is said again in the same
    conversation is linked to the memory that is there, so that forgetting it finds all who said it.
    """
    done: list[Put] = []
    for start in range(0, len(drafts), _BATCH):
        done += await _put(session, drafts[start : start + _BATCH], actor, reason)
    return done


async def _put(session: AsyncSession, drafts: Sequence[Draft], actor: str, reason: str) -> list[Put]:
    rows = [row_of(draft.memory) for draft in drafts]
    refused = await _refused(session, rows, drafts)
    there = await _present(session, rows)
    kept = [None if no else there.setdefault(_key(row), row) for row, no in zip(rows, refused, strict=True)]
    done = [Put(known, is_new=known is row) for known, row in zip(kept, rows, strict=True)]
    new = [(one.row, draft) for one, draft in zip(done, drafts, strict=True) if one.row is not None and one.is_new]
    session.add_all([row for row, _ in new])
    await session.flush()
    session.add_all([new_event(row, "ADD", actor, reason, new=row.text) for row, _ in new])
    await enter_words(session, [(row, draft.words) for row, draft in new if row.state == "searchable"])
    await _link(session, drafts, done)
    return done


def _key(row: MemoryRow) -> tuple[str, str, str, str, datetime | None]:
    """Two rows of one key are the same memory; of those that are over, there may be several with one text."""
    return row.scope, row.kind, row.digest, row.state, None if row.state == "searchable" else row.created_at


async def _present(session: AsyncSession, rows: Sequence[MemoryRow]) -> dict[object, MemoryRow]:
    texts = [(row.scope, row.kind, row.digest) for row in rows]
    same = tuple_(MemoryRow.scope, MemoryRow.kind, MemoryRow.digest).in_(texts)
    found = await session.scalars(select(MemoryRow).where(same))
    return {_key(row): row for row in found}


async def _refused(session: AsyncSession, rows: Sequence[MemoryRow], drafts: Sequence[Draft]) -> list[bool]:
    hashes = MemoryTombstoneRow.digest.in_({row.digest for row in rows})
    forgotten = set(await session.scalars(select(MemoryTombstoneRow.digest).where(hashes)))
    cited = {message for draft in drafts for message in draft.memory.sources}
    gone = select(MessageRow.conversation_id, MessageRow.id).where(among(MessageRow.id, cited), MessageRow.withdrawn)
    withdrawn = {(conversation, message) for conversation, message in await session.execute(gone)}
    return [
        row.digest in forgotten or any((row.conversation, message) in withdrawn for message in draft.memory.sources)
        for row, draft in zip(rows, drafts, strict=True)
    ]


async def _link(session: AsyncSession, drafts: Sequence[Draft], done: Sequence[Put]) -> None:
    links = [
        {"memory_id": one.row.id, "message_id": message}
        for draft, one in zip(drafts, done, strict=True)
        if one.row is not None and one.row.conversation == draft.memory.conversation
        for message in draft.memory.sources
    ]
    if links:
        await session.execute(upsert(MemorySourceRow).on_conflict_do_nothing(), links)


async def move_point(session: AsyncSession, point: Point) -> bool:
    """Move a conversation's point, never back. False if the conversation is gone."""
    if await session.get(ConversationRow, point.conversation) is None:
        return False
    row = await session.get(MemoryPointRow, point.conversation)
    if row is None:
        row = MemoryPointRow(conversation_id=point.conversation, indexed_to=0, extracted_to=0)
        session.add(row)
    row.indexed_to = max(row.indexed_to, point.indexed_to)
    row.extracted_to = max(row.extracted_to, point.extracted_to)
    return True


def point_of(row: MemoryPointRow) -> Point:
    """The row as others know it."""
    return Point(row.conversation_id, row.indexed_to, row.extracted_to)


async def refuse_edit(session: AsyncSession, row: MemoryRow, text: str) -> None:
    """Raises InvalidRequest if the row may not become this text."""
    if row.state != "searchable":
        raise InvalidRequest(f"Memory {row.id} is {row.state}; edit the one that holds now, or add a new one.")
    hash = digest(row.scope, text)
    if await session.get(MemoryTombstoneRow, hash) is not None:
        raise InvalidRequest("This was forgotten at its owner's wish; it is not stored again.")
    same = MemoryRow.scope == row.scope, MemoryRow.kind == row.kind, MemoryRow.digest == hash, searchable()
    twin = await session.scalar(select(MemoryRow.id).where(*same, MemoryRow.id != row.id))
    if twin is not None:
        raise InvalidRequest(f"Memory {twin} says this already; delete one of them instead.")
