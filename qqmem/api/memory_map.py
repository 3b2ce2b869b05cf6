"""Routes to what is remembered as a whole: how much of what, and where its vectors lie."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from qqmem.api import wire_memory as shapes
from qqmem.api.problems import documented
from qqmem.api.state import Reader, TheMemories
from qqmem.memory.memories import Memories
from qqmem.memory.projection import project
from qqmem.memory.scope import View
from qqmem.memory.types import Memory, Vectors

router = APIRouter(prefix="/api/memories", tags=["memories"], responses=documented(401, 403, 422, 429))

_MOST = 200
Vectored = Literal["state", "text"]
"""A lane that has vectors."""
_SHOWN_CHARS = 200
_LANES: tuple[Vectored, ...] = ("state", "text")
"""The first that has vectors is shown."""


@router.get("/counts")
async def count_memories(_: Reader, memories: TheMemories) -> shapes.MemoryCounts:
    """How many there are of which state and kind, where, and about whom; the largest first."""
    found = await memories.store.census(_MOST)
    return shapes.MemoryCounts(
        states=dict(found.states),
        kinds=dict(found.kinds),
        decodable=found.decodable,
        scopes=tuple(shapes.ScopeCount(scope=scope, count=num) for scope, num in found.scopes.items()),
        subjects=tuple(shapes.SubjectCount(subject_id=id, name=name, count=num) for id, name, num in found.subjects),
    )


@router.get("/map", response_model_exclude_none=True)
async def map_memories(
    _: Reader,
    memories: TheMemories,
    limit: Annotated[int, Query(ge=1, le=5000, description="Most points: the newest memories.")] = 1000,
) -> shapes.MemoryMap:
    """The newest memories as points of a plane, so that those lie together whose vectors are alike."""
    for lane in _LANES:
        if space := memories.space_of(lane):
            ids, vectors, total = await memories.store.newest_vectors(space, limit)
            if ids:
                return await _map(memories, lane, ids, vectors, total)
    return shapes.MemoryMap(total=0, explained=(0.0, 0.0), points=())


async def _map(
    memories: Memories, lane: Vectored, ids: Sequence[int], vectors: Vectors, total: int
) -> shapes.MemoryMap:
    places, explained = await asyncio.to_thread(project, vectors)
    place_of = dict(zip(ids, places.astype(float).round(4).tolist(), strict=True))
    found = await memories.store.seen(ids, View.all())
    return shapes.MemoryMap(
        lane=lane, total=total, explained=explained, points=tuple(_point(one, *place_of[one.id]) for one in found)
    )


def _point(memory: Memory, x: float, y: float) -> shapes.MemoryPoint:
    return shapes.MemoryPoint(
        id=memory.id,
        x=x,
        y=y,
        kind=memory.kind,
        scope=memory.scope,
        subject_id=memory.subject_id,
        state=memory.state,
        decodable=memory.decodable,
        text=memory.text[:_SHOWN_CHARS],
    )
