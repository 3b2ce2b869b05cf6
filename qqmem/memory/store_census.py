"""How many memories there are, and about whom."""

from __future__ import annotations

from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from qqmem.memory.store_rows import left
from qqmem.memory.tables import MemoryRow
from qqmem.memory.types import Census

_NUM = func.count().label("num")
_LARGEST = _NUM.desc(), func.max(MemoryRow.id).desc()


async def census(session: AsyncSession, most: int) -> Census:
    """Of all that are left; at most so many scopes and subjects, the largest."""
    decodable = select(func.count()).where(left(), MemoryRow.decodable != "")
    return Census(
        kinds=await _counted(session, MemoryRow.kind, most),
        states=await _counted(session, MemoryRow.state, most),
        scopes=await _counted(session, MemoryRow.scope, most),
        subjects=await _subjects(session, most),
        decodable=await session.scalar(decodable) or 0,
    )


async def _counted(session: AsyncSession, column: InstrumentedAttribute[Any], most: int) -> dict[str, int]:
    query = select(column.label("name"), _NUM).where(left()).group_by(column).order_by(*_LARGEST).limit(most)
    return {row.name: row.num for row in await session.execute(query)}


async def _subjects(session: AsyncSession, most: int) -> tuple[tuple[str, str, int], ...]:
    """Whoever has said something of themselves has a name."""
    own = func.max(case((MemoryRow.subject_id == MemoryRow.speaker_id, MemoryRow.id))).label("own")
    about = select(MemoryRow.subject_id, _NUM, own).where(left()).group_by(MemoryRow.subject_id)
    people = about.order_by(*_LARGEST).limit(most).subquery()
    query = select(people.c.subject_id, MemoryRow.speaker_name, people.c.num)
    query = query.outerjoin(MemoryRow, MemoryRow.id == people.c.own)
    rows = await session.execute(query.order_by(people.c.num.desc(), people.c.subject_id))
    return tuple((id, name or "", num) for id, name, num in rows)
