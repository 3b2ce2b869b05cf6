"""Between the tables and the records: checks, conditions and conversions that the parts of the store share."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime

from sqlalchemy import (
    ColumnElement,
    Integer,
    and_,
    column,
    delete,
    func,
    or_,
    select,
    table,
    true,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from qqmem.errors import NotFound
from qqmem.memory.rules import digest
from qqmem.memory.scope import Scope, View
from qqmem.memory.tables import FTS, MemoryEventRow, MemoryRow, MemorySourceRow, MemoryVectorRow
from qqmem.memory.types import Memory, MemoryEvent, State

words_table = table(FTS, column("rowid", Integer), column("places"), column("words"))

_SAME_ROW = [field.name for field in fields(Memory) if field.name not in ("id", "sources")]


def row_of(memory: Memory) -> MemoryRow:
    """A row to be inserted."""
    scope = Scope.parse(memory.scope)
    same = {name: getattr(memory, name) for name in _SAME_ROW}
    return MemoryRow(**same, owner_id=scope.owner, group_id=scope.group, digest=digest(memory.scope, memory.text))


def record_of(row: MemoryRow, sources: Iterable[int] = ()) -> Memory:
    """The row as others know it."""
    same = {name: getattr(row, name) for name in _SAME_ROW}
    return Memory(id=row.id, sources=tuple(sources), **same)


async def records(session: AsyncSession, rows: Sequence[MemoryRow]) -> list[Memory]:
    """The rows as records, in their order."""
    cited: dict[int, list[int]] = defaultdict(list)
    links = select(MemorySourceRow.memory_id, MemorySourceRow.message_id).order_by(MemorySourceRow.message_id)
    for memory, message in await session.execute(links.where(among(MemorySourceRow.memory_id, [r.id for r in rows]))):
        cited[memory].append(message)
    return [record_of(row, cited[row.id]) for row in rows]


async def get(session: AsyncSession, id: int) -> MemoryRow:
    """Raises NotFound: it never was, or is deleted."""
    row = await session.get(MemoryRow, id)
    if row is None or row.state == "deleted":
        raise NotFound(f"There is no memory {id}.")
    return row


def among(
    col: InstrumentedAttribute[int] | InstrumentedAttribute[int | None] | ColumnElement[int], ids: Collection[int]
) -> ColumnElement[bool]:
    """Whether the column is one of these, however many they are: SQLite limits the number of parameters."""
    return col.in_(select(func.json_each(json.dumps(list(ids))).table_valued("value").c.value))


def visible(view: View) -> ColumnElement[bool]:
    """View.sees, for the database."""
    if view.everything:
        return true()
    seen: list[ColumnElement[bool]] = [MemoryRow.scope.in_(sorted(view.scopes))]
    if view.owner is not None:
        seen.append(and_(MemoryRow.owner_id == view.owner, MemoryRow.group_id != ""))
    if view.group is not None:
        seen.append(and_(MemoryRow.group_id == view.group, MemoryRow.owner_id != ""))
    return or_(*seen)


def searchable() -> ColumnElement[bool]:
    """Whether a memory may be found."""
    return MemoryRow.state == "searchable"


def left() -> ColumnElement[bool]:
    """Whether there is still a memory."""
    return MemoryRow.state != "deleted"


def new_event(row: MemoryRow, name: str, actor: str, reason: str, old: str = "", new: str = "") -> MemoryEventRow:
    """A change of the memory, to be stored. old, new: its texts, if they change."""
    return MemoryEventRow(
        memory_id=row.id, event=name, old=old, new=new, actor=actor, reason=reason, at=datetime.now(UTC)
    )


def event_of(row: MemoryEventRow) -> MemoryEvent:
    """The row as others know it."""
    return MemoryEvent(**{field.name: getattr(row, field.name) for field in fields(MemoryEvent)})


async def retire(session: AsyncSession, row: MemoryRow, state: State, at: datetime, why: MemoryEventRow) -> None:
    """End a memory that was true until then; it stays readable, and is no longer found."""
    row.state, row.valid_to, row.decodable = state, at, ""
    session.add(why)
    await leave_index(session, [row.id])


async def leave_index(session: AsyncSession, ids: Collection[int]) -> None:
    """Take memories out of everything by which they are found."""
    await session.execute(delete(MemoryVectorRow).where(among(MemoryVectorRow.memory_id, ids)))
    await session.execute(delete(words_table).where(among(words_table.c.rowid, ids)))
