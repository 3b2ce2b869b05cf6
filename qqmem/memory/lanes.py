"""One vector lane: an encoder, its space, and the index of what the store has in it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Literal

import numpy as np

from qqmem.errors import QqmemError
from qqmem.memory.embed import dots, encoded, unit
from qqmem.memory.index import EXACT_LIMIT, Index
from qqmem.memory.scope import View
from qqmem.memory.search import calibrate, calibration_texts, space_id, strengths
from qqmem.memory.store import Store
from qqmem.memory.types import Encoder, Memory, Space, Vectors

log = logging.getLogger(__name__)

_SAVE_AFTER = 1_000

Scores = Mapping[int, tuple[float, float]]
"""By id: the lane's raw score and its strength."""


class VectorLane:
    """Keeps the index agreeing with the vectors in the store.

    What fails in the encoder is logged, once, and gives None. Changes must come one at a time.
    """

    def __init__(self, store: Store, encoder: Encoder, space: Space, index: Index) -> None:
        self.space = space
        self.index = index
        self._store = store
        self._encoder = encoder
        self._has_failed = False
        self._hopeless: set[int] = set()  # memories whose texts the encoder cannot do

    @classmethod
    async def open(
        cls, store: Store, encoder: Encoder, folder: Path, *, centred: bool, exact_limit: int = EXACT_LIMIT
    ) -> VectorLane:
        """The lane of an encoder, its index empty; a space that is new is calibrated. Raises ModelError."""
        texts = await asyncio.to_thread(calibration_texts)
        space = await store.space(space_id(encoder, texts))
        if space is None or space.dim != encoder.dim:
            space = await calibrate(encoder, texts, centred)
            await store.put_space(space)
        return cls(store, encoder, space, Index(space.id, space.dim, folder, exact_limit))

    async def fill(self) -> None:
        """Put all vectors of the store into the index."""
        async with aclosing(self._store.vectors(self.space.id)) as pages:
            async for ids, scopes, vectors in pages:
                await asyncio.to_thread(self.index.put, ids, scopes, vectors)

    async def encode(self, memories: Sequence[Memory]) -> Vectors | None:
        """Centred unit vectors [n, dim] of what they tell; None if the encoder fails."""
        return await self._encoded([memory.told for memory in memories], "keys")

    async def encode_what_can_be(self, memories: Sequence[Memory]) -> tuple[Sequence[Memory], Vectors]:
        """The same, but if the encoder fails with all, then each by itself; those that it can do are returned."""
        together = await self.encode(memories)
        if together is not None:
            return memories, together
        alone = [(memory, await self.encode([memory])) for memory in memories]
        good = [(memory, vectors[0]) for memory, vectors in alone if vectors is not None]
        if good:  # else it is not the texts that are at fault
            self._hopeless.update(memory.id for memory, vectors in alone if vectors is None)
        done = np.array([vector for _, vector in good], np.float32).reshape(-1, self.space.dim)
        return [memory for memory, _ in good], done

    async def put(self, memories: Sequence[Memory], vectors: Vectors) -> int:
        """Store vectors and index them. Returns how many were still wanted."""
        ids, texts = [memory.id for memory in memories], [memory.told for memory in memories]
        kept = set(await self._store.put_vectors(self.space.id, ids, texts, vectors))
        rows = [row for row, id in enumerate(ids) if id in kept]
        scopes = [memories[row].scope for row in rows]
        await asyncio.to_thread(self.index.put, [ids[row] for row in rows], scopes, vectors[rows])
        return len(rows)

    async def drop(self, ids: Collection[int]) -> None:
        await asyncio.to_thread(self.index.drop, ids)

    async def missing(self, limit: int) -> list[Memory]:
        """Memories without a vector here."""
        found = await self._store.missing(self.space.id, limit + len(self._hopeless))
        return [memory for memory in found if memory.id not in self._hopeless][:limit]

    async def search(
        self, query: Vectors | str, view: View, k: int, without: Collection[int]
    ) -> tuple[Vectors, list[int]] | None:
        """The query, centred and unit, and the ids of the k nearest. None if the query cannot be encoded."""
        vectors = await self._encoded([query], "queries") if isinstance(query, str) else self._of_state(query)
        if vectors is None:
            return None
        ids, _ = await asyncio.to_thread(self.index.search, vectors[0], view, k, without)
        return vectors[0], ids.tolist()

    def scores(self, query: Vectors, ids: Sequence[int]) -> Scores:
        """Of those of the ids that have a vector."""
        known, vectors = self.index.vectors(ids)
        pairs = zip(dots(vectors, query).tolist(), strengths(self.space, query, vectors).tolist(), strict=True)
        return dict(zip(known, pairs, strict=True))

    def maintain(self, go_on: threading.Event) -> None:
        """Make graphs that are missing and snapshots that are old. Up to minutes."""
        self.index.build(go_on)
        self.save(_SAVE_AFTER)

    def save(self, at_least: int = 1) -> None:
        """Write snapshots of what has changed so often; one that cannot be written is only slower to do without."""
        try:
            self.index.save(at_least)
        except (OSError, RuntimeError) as error:  # hnswlib's errors are RuntimeErrors
            log.warning("The snapshots of the index cannot be written: %s", error)

    async def _encoded(self, texts: Sequence[str], role: Literal["keys", "queries"]) -> Vectors | None:
        try:
            return self._centred(await encoded(self._encoder, texts, role))
        except QqmemError as error:
            self._note(error)
            return None

    def _of_state(self, state: Vectors) -> Vectors | None:
        if state.shape == (self.space.dim,) and np.isfinite(state).all():
            return self._centred(unit(state[None]))
        self._note(None)
        return None

    def _note(self, error: QqmemError | None) -> None:
        if not self._has_failed:
            log.error("Memories are found without %s, which fails", self._encoder.space, exc_info=error)
        self._has_failed = True

    def _centred(self, vectors: Vectors) -> Vectors:
        return unit(vectors - self.space.centre)
