from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from qqmem.db import Database
from qqmem.memory.memories import Memories
from qqmem.memory.scope import View
from qqmem.memory.types import Change
from qqmem.memory.words import Segmenter
from tests.memory.encoders import Letters
from tests.memory.records import NOW, told


@pytest.fixture
def changes() -> list[Change]:
    return []


@pytest.fixture
async def memories(
    db: Database, tmp_path: Path, segmenter: Segmenter, changes: list[Change]
) -> AsyncIterator[Memories]:
    options: dict[str, Any] = {"segmenter": segmenter, "tell": changes.append, "max_size": 4}
    async with Memories.open(db, Letters(), tmp_path / "index", **options) as memories:
        yield memories


async def test_each_change_is_told(memories: Memories, changes: list[Change]) -> None:
    def news() -> list[Change]:
        found = changes.copy()
        changes.clear()
        return found

    one, two = await memories.add([told("一", "user:1"), told("二", "user:1")], "test")
    assert news() == [Change("added", (one.id, two.id), "user:1")]
    assert await memories.add([told("一", "user:1")], "test") == []
    assert news() == [], "it was there already"
    three, four = await memories.add([told("三", "user:1"), told("四", "user:2")], "test")
    assert news() == [Change("added", (three.id, four.id))]
    await memories.edit(one.id, "壹", "test")
    await memories.pin(one.id, True, "test")
    assert news() == [Change("changed", (one.id,), "user:1")] * 2
    newer = await memories.supersede([two.id], told("贰", "user:1"), "test")
    assert newer is not None
    added, changed, evicted = news()
    assert (added, changed) == (Change("added", (newer.id,), "user:1"), Change("changed", (two.id,)))
    assert evicted == Change("forgotten", (two.id,)), "there are more than four"
    await memories.expire(newer.id, NOW, "test")
    assert news() == [Change("changed", (newer.id,), "user:1")]
    assert await memories.forget([one.id], "test") == [one.id]
    assert news() == [Change("forgotten", (one.id,))]
    assert await memories.forget([one.id], "test") == []
    assert news() == []
    back, here = await memories.restore([two, three], "test")
    assert back is not None
    assert here is None
    assert news() == [Change("added", (back.id,), "user:1")]


async def test_a_change_is_told_even_if_its_caller_is_gone(memories: Memories, changes: list[Change]) -> None:
    adding = asyncio.create_task(memories.add([told("一", "user:1")], "test"))
    await asyncio.sleep(0)  # it has begun
    adding.cancel()
    await asyncio.wait([adding])
    (memory,) = await memories.store.page(View.all(), 10)
    assert changes == [Change("added", (memory.id,), "user:1")]
