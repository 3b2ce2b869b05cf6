"""Vectors of memories, each in its space."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence

import numpy as np
from sqlalchemy import delete, exists, func, select
from sqlalchemy.dialects.sqlite import insert as upsert

from qqmem.db import Database
from qqmem.memory.store_rows import among, record_of, records, searchable
from qqmem.memory.tables import MemoryRow, MemorySpaceRow, MemoryVectorRow
from qqmem.memory.types import Memory, Space, Vectors

_PAGE = 1_000


class Spaces:
    """The vectors in one database. A memory that is edited or no longer searchable has none."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def put_space(self, space: Space) -> None:
        """Store what belongs to a space, in place of what was known of it."""
        row = MemorySpaceRow(
            id=space.id,
            dim=space.dim,
            centre=_to_bytes(space.centre),
            cohort_keys=_to_bytes(space.cohort_keys),
            cohort_queries=_to_bytes(space.cohort_queries),
            floor=space.floor,
        )
        async with self._db.write() as session:
            await session.merge(row)

    async def space(self, id: str) -> Space | None:
        async with self._db.read() as session:
            row = await session.get(MemorySpaceRow, id)
        if row is None:
            return None
        keys, queries = (_from_bytes(cohort, row.dim) for cohort in (row.cohort_keys, row.cohort_queries))
        return Space(row.id, row.dim, _from_bytes(row.centre, row.dim)[0], keys, queries, row.floor)

    async def drop_other_spaces(self, keep: Collection[str]) -> None:
        """Delete all spaces but these, with their vectors."""
        async with self._db.write() as session:
            await session.execute(delete(MemoryVectorRow).where(MemoryVectorRow.space.not_in(keep)))
            await session.execute(delete(MemorySpaceRow).where(MemorySpaceRow.id.not_in(keep)))

    async def put_vectors(self, space: str, ids: Sequence[int], texts: Sequence[str], vectors: Vectors) -> list[int]:
        """Store the vectors [n, dim] of what memories told when they were encoded.

        Returns those ids whose vector was stored; a memory that tells something else by now, or is gone, is left out.
        """
        async with self._db.write() as session:
            rows = await session.scalars(select(MemoryRow).where(among(MemoryRow.id, ids), searchable()))
            told = {row.id: record_of(row).told for row in rows}
            fresh = [n for n, (id, text) in enumerate(zip(ids, texts, strict=True)) if told.get(id) == text]
            values = [{"memory_id": ids[n], "space": space, "vector": _to_bytes(vectors[n])} for n in fresh]
            if values:
                statement = upsert(MemoryVectorRow)
                newest = {"vector": statement.excluded.vector}
                await session.execute(statement.on_conflict_do_update(set_=newest), values)
            return [ids[n] for n in fresh]

    async def vectors(self, space: str) -> AsyncGenerator[tuple[list[int], list[str], Vectors]]:
        """All vectors of searchable memories, in pages of ids, their scopes, and [n, dim]."""
        query = select(MemoryVectorRow.memory_id, MemoryRow.scope, MemoryVectorRow.vector)
        query = query.join(MemoryRow).where(MemoryVectorRow.space == space, searchable())
        query, last = query.order_by(MemoryVectorRow.memory_id).limit(_PAGE), 0
        while True:
            async with self._db.read() as session:
                rows = (await session.execute(query.where(MemoryVectorRow.memory_id > last))).all()
            if not rows:
                return
            ids, scopes, blobs = zip(*rows, strict=True)
            yield list(ids), list(scopes), _from_bytes(b"".join(blobs), len(blobs[0]) // 4)
            last = ids[-1]

    async def newest_vectors(self, space: str, limit: int) -> tuple[list[int], Vectors, int]:
        """Ids of searchable memories, newest first, and [n, dim]; and how many have a vector here in all."""
        here = select(MemoryVectorRow.memory_id, MemoryVectorRow.vector).join(MemoryRow)
        here = here.where(MemoryVectorRow.space == space, searchable())
        async with self._db.read() as session:
            rows = (await session.execute(here.order_by(MemoryVectorRow.memory_id.desc()).limit(limit))).all()
            total = await session.scalar(select(func.count()).select_from(here.subquery())) or 0
        if not rows:
            return [], np.zeros((0, 0), np.float32), 0
        ids, blobs = zip(*rows, strict=True)
        return list(ids), _from_bytes(b"".join(blobs), len(blobs[0]) // 4), total

    async def missing(self, space: str, limit: int) -> list[Memory]:
        """The newest searchable memories without a vector in this space."""
        made = exists().where(MemoryVectorRow.memory_id == MemoryRow.id, MemoryVectorRow.space == space)
        query = select(MemoryRow).where(searchable(), ~made).order_by(MemoryRow.id.desc()).limit(limit)
        async with self._db.read() as session:
            return await records(session, (await session.scalars(query)).all())

    async def vector(self, id: int, space: str) -> Vectors | None:
        """[dim]"""
        async with self._db.read() as session:
            row = await session.get(MemoryVectorRow, (id, space))
        return None if row is None else _from_bytes(row.vector, len(row.vector) // 4)[0]


def _to_bytes(vectors: Vectors) -> bytes:
    return vectors.astype("<f4").tobytes()


def _from_bytes(blob: bytes, dim: int) -> Vectors:
    return np.frombuffer(blob, "<f4").astype(np.float32).reshape(-1, dim)
