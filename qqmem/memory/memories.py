"""The memory as everybody else sees it: the store, and what is searched, kept agreeing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal, Self, TypeVar

from qqmem.db import Database
from qqmem.memory.graph import forget_snapshots
from qqmem.memory.index import EXACT_LIMIT
from qqmem.memory.lanes import Scores, VectorLane
from qqmem.memory.scope import View
from qqmem.memory.search import DAY_ZERO, Fusion, Lexicon, better, calibration_texts, can_answer, unrelated
from qqmem.memory.store import Point, Store
from qqmem.memory.types import Change, Encoder, Hit, Lane, Memory, NewMemory, Query, Vectors
from qqmem.memory.words import Segmenter

T = TypeVar("T")

_POOL = 50
"""How many of each lane are looked at."""


class Memories:
    """What is remembered: changed in the store first, and then in the indexes; a crash between them does no harm.

    changed: set when something may lack a vector, for whoever calls `encode_missing` in the background.
    dropped: set when something was forgotten, or says something else now, for whoever keeps copies of it.
    """

    def __init__(self, store: Store, lexicon: Lexicon, fusion: Fusion, folder: Path, max_size: int, limit: int) -> None:
        self.store = store
        self.changed = asyncio.Event()
        self.dropped = asyncio.Event()
        self._lexicon = lexicon
        self._fusion = fusion
        self._folder = folder
        self._max_size = max_size
        self._exact_limit = limit
        self._lanes: dict[Lane, VectorLane] = {}
        # Store and indexes change together, one change after another.
        self._changing = asyncio.Lock()
        self._worn = asyncio.Event()
        self._open = threading.Event()
        self._tell: Callable[[Change], None] = lambda _: None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        db: Database,
        encoder: Encoder | None,
        folder: Path,
        *,
        max_size: int = 100_000,
        lanes: Mapping[Lane, float] = DAY_ZERO,
        exact_limit: int = EXACT_LIMIT,
        segmenter: Segmenter | None = None,
        tell: Callable[[Change], None] = lambda _: None,
    ) -> AsyncGenerator[Self]:
        """All that the database has, searchable by words, and by the encoder's vectors if there is one.

        folder: of snapshots, which hold no text and may be deleted. lanes: the weight of each. exact_limit: as in
        Index. segmenter: one that is loaded already. tell: told of each change, once it is stored; it must not raise.
        Raises ModelError: the encoder fails with a space that is new.
        """
        segmenter = segmenter or Segmenter()
        lexicon = Lexicon(segmenter)
        shares = await asyncio.to_thread(lambda: lexicon.unrelated(calibration_texts()))
        fusion = Fusion(lanes, {"lexical": shares})
        memories = cls(Store(db, segmenter), lexicon, fusion, folder, max_size, exact_limit)
        memories._open.set()
        memories._tell = tell
        if encoder:
            await memories._attach("text", encoder, centred=False)
        maintaining = asyncio.create_task(memories._maintain())
        try:
            yield memories
        finally:
            memories._open.clear()
            memories._worn.set()
            await maintaining

    async def attach_keys(self, encoder: Encoder) -> None:
        """From now on lane `text` works, with this encoder: one that came later than the memory. Raises ModelError."""
        await self._attach("text", encoder, centred=True)

    async def attach_values(self, encoder: Encoder) -> None:
        """From now on lane `state` and `value` work, in the model's own space. Raises ModelError."""
        await self._attach("state", encoder, centred=True)

    async def drop_other_spaces(self) -> None:
        """Delete the vectors and snapshots of all encoders but the present ones."""
        indexes = [lane.index for lane in self._lanes.values()]
        await self.store.drop_other_spaces([index.space for index in indexes])
        await asyncio.to_thread(forget_snapshots, self._folder, [index.folder.name for index in indexes])

    @property
    def value_space(self) -> str | None:
        """The id of the model's own space, once it is attached."""
        return self.space_of("state")

    def space_of(self, lane: Lane) -> str | None:
        """The id of the space of a lane's vectors, once it is attached."""
        found = self._lanes.get(lane)
        return None if found is None else found.space.id

    def weigh(self, lanes: Mapping[Lane, float]) -> None:
        """Search with other weights from now on."""
        self._fusion.weigh(lanes)

    # What comes and changes

    async def add(
        self, new: Sequence[NewMemory], actor: str, reason: str = "", *, point: Point | None = None
    ) -> list[Memory]:
        """As Store.add. The keys are made before it returns; beyond the cap the least used memories go."""

        async def change() -> list[Memory]:
            return self._told("added", await self.store.add(new, actor, reason, point=point))

        added = await self._to_the_end(change())
        await self._has_new(added)
        return added

    async def restore(
        self, found: Sequence[Memory], actor: str, reason: str = "", *, ids: dict[int, int] | None = None
    ) -> list[Memory | None]:
        """As Store.restore. The keys are made later, by encode_missing: there may be very many."""
        restored = await self.store.restore(found, actor, reason, ids=ids)
        self._told("added", [memory for memory in restored if memory])
        await self._without(self.store.evict(self._max_size))
        self._wake()
        return restored

    async def edit(self, id: int, text: str, actor: str, reason: str = "") -> Memory:
        """As Store.edit."""

        async def change() -> Memory:
            memory = await self.store.edit(id, text, actor, reason)
            await self._drop([id])
            self._told("changed", [memory])
            return memory

        memory = await self._to_the_end(change())
        await self._has_new([memory])
        return memory

    async def supersede(
        self, ids: Collection[int], new: NewMemory, actor: str, reason: str = "", *, point: Point | None = None
    ) -> Memory | None:
        """As Store.supersede."""

        async def change() -> Memory | None:
            memory = await self.store.supersede(ids, new, actor, reason, point=point)
            await self._drop_retired(ids)
            if memory:
                self._told("added", [memory])
                self._tell(Change("changed", tuple(ids)))
            return memory

        memory = await self._to_the_end(change())
        await self._has_new([memory] if memory else [])
        return memory

    async def expire(self, id: int, at: datetime, actor: str, reason: str = "") -> Memory:
        """As Store.expire."""

        async def change() -> Memory:
            memory = await self.store.expire(id, at, actor, reason)
            await self._drop_retired([id])
            self._told("changed", [memory])
            return memory

        return await self._to_the_end(change())

    async def pin(self, id: int, pinned: bool, actor: str) -> Memory:
        """As Store.pin."""
        memory = await self.store.pin(id, pinned, actor)
        self._told("changed", [memory])
        return memory

    # What goes

    async def forget(self, ids: Collection[int], actor: str, reason: str = "") -> list[int]:
        """As Store.forget."""
        return await self._without(self.store.forget(ids, actor, reason))

    async def forget_messages(
        self, conversation: str, messages: Collection[int], actor: str, reason: str = ""
    ) -> list[int]:
        """As Store.forget_messages."""
        return await self._without(self.store.forget_messages(conversation, messages, actor, reason))

    async def forget_conversation(self, conversation: str, actor: str) -> list[int]:
        """As Store.forget_conversation."""
        return await self._without(self.store.forget_conversation(conversation, actor))

    # What is found

    async def search(
        self, query: Query, view: View, k: int = 5, *, without: Collection[int] = (), for_recall: bool = False
    ) -> list[Hit]:
        """The k best memories that the view shows, best first; never an error because of an encoder.

        without: ids to leave out. for_recall: leave out what only asks, too, as it answers nothing.
        """
        if query.before:
            alone = replace(query, before="")
            behind = replace(alone, text=f"{query.before}\n{query.text}")
            both = (self.search(one, view, k, without=without, for_recall=for_recall) for one in (alone, behind))
            return better(*await asyncio.gather(*both))[:k]
        pool = max(_POOL, 4 * k)
        asked: dict[Lane, Vectors | str] = {} if query.state is None else {"state": query.state}
        if query.text.strip():
            asked["text"] = query.text
        nearest = {
            lane: found
            for lane, what in asked.items()
            if lane in self._lanes and (found := await self._lanes[lane].search(what, view, pool, without))
        }
        bm25 = {match.id: match.score for match in await self.store.lexical(query.text, view, pool + len(without))}
        ids = dict.fromkeys([*(id for _, found in nearest.values() for id in found), *bm25])
        # The last word on what may be seen.
        memories = await self.store.seen([id for id in ids if id not in set(without)], view)
        if for_recall:
            memories = [memory for memory in memories if can_answer(memory)]
        queries = {lane: vector for lane, (vector, _) in nearest.items()}
        return await asyncio.to_thread(lambda: self._ranked(query, memories, queries, bm25)[:k])

    async def value(self, id: int) -> Vectors | None:
        """The centred unit value [dim] of a searchable memory, made now if need be; None if it cannot be."""
        lane = self._lanes.get("state")
        if lane is None:
            return None
        found = await self.store.vector(id, lane.space.id)
        if found is None and (memories := await self.store.seen([id], View.all())):
            vectors = await lane.encode(memories)
            found = vectors[0] if vectors is not None and await self._put(lane, memories, vectors) else None
        return found

    async def encode_missing(self, limit: int = 16) -> int:
        """Make vectors that are missing, keys before values. Returns how many: 0 if none can be made now."""
        for lane in (self._lanes.get("text"), self._lanes.get("state")):
            if lane and (memories := await lane.missing(limit)) and (done := await self._encode(lane, memories)):
                return done
        return 0

    def _ranked(
        self, query: Query, memories: Sequence[Memory], queries: Mapping[Lane, Vectors], bm25: Mapping[int, float]
    ) -> list[Hit]:
        ids = [memory.id for memory in memories]
        found: dict[Lane, Scores] = {lane: self._lanes[lane].scores(vector, ids) for lane, vector in queries.items()}
        shares = self._lexicon.covered(query.text, [memory.told for memory in memories])
        found["lexical"] = {id: (bm25.get(id, 0.0), share) for id, share in zip(ids, shares, strict=True) if share}
        return self._fusion.hits(memories, found)

    # How they agree

    async def _attach(self, name: Lane, encoder: Encoder, *, centred: bool) -> None:
        lane = await VectorLane.open(self.store, encoder, self._folder, centred=centred, exact_limit=self._exact_limit)
        async with self._changing:
            await lane.fill()
            self._fusion.learn(name, await asyncio.to_thread(unrelated, lane.space))
            self._lanes[name] = lane
        self._wake()

    async def _has_new(self, memories: Sequence[Memory]) -> None:
        text = self._lanes.get("text")
        if memories and text:
            await self._encode(text, memories)
        if memories:
            await self._without(self.store.evict(self._max_size))
            self._wake()

    async def _encode(self, lane: VectorLane, memories: Sequence[Memory]) -> int:
        done, vectors = await lane.encode_what_can_be(memories)
        return await self._put(lane, done, vectors)

    async def _put(self, lane: VectorLane, memories: Sequence[Memory], vectors: Vectors) -> int:
        return await self._to_the_end(lane.put(memories, vectors)) if len(memories) else 0

    async def _without(self, forgetting: Coroutine[None, None, list[int]]) -> list[int]:
        """What the store forgets, the indexes forget."""

        async def change() -> list[int]:
            gone = await forgetting
            await self._drop(gone)
            if gone:
                self._tell(Change("forgotten", tuple(gone)))
            return gone

        return await self._to_the_end(change())

    async def _drop_retired(self, ids: Collection[int]) -> None:
        left = {memory.id for memory in await self.store.seen(list(ids), View.all())}
        await self._drop([id for id in ids if id not in left])

    async def _drop(self, ids: Collection[int]) -> None:
        for lane in self._lanes.values():
            await lane.drop(ids)
        if ids:
            self.dropped.set()

    async def _to_the_end(self, change: Coroutine[None, None, T]) -> T:
        """Do a change of store and indexes whole, even if the caller is cancelled meanwhile."""

        async def alone() -> T:
            async with self._changing:
                return await change

        task = asyncio.create_task(alone())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            if task.done() and not task.cancelled():
                task.exception()  # nobody is left to be told
            raise

    def _told(self, kind: Literal["added", "changed"], memories: list[Memory]) -> list[Memory]:
        if memories:
            scopes = {memory.scope for memory in memories}
            self._tell(Change(kind, tuple(memory.id for memory in memories), scopes.pop() if len(scopes) == 1 else ""))
        return memories

    def _wake(self) -> None:
        self.changed.set()
        self._worn.set()

    async def _maintain(self) -> None:
        """Graphs and snapshots, in the background; and once more at the end."""
        while self._open.is_set():
            await self._worn.wait()
            self._worn.clear()
            for lane in list(self._lanes.values()):
                await asyncio.to_thread(lane.maintain, self._open)
        for lane in self._lanes.values():
            await asyncio.to_thread(lane.save)
