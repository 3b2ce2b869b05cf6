"""Which release serves: the engine, the search and the trigger take it together."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from qqmem.engine.worker import Engine
from qqmem.errors import ModelError, QqmemError
from qqmem.memory.memories import Memories
from qqmem.memory.search import DAY_ZERO
from qqmem.recollection import Recollections
from qqmem.run_parts import Base
from qqmem.train.releases import Manifest, Releases, read_manifest, starter_of

log = logging.getLogger(__name__)

DRAIN_SECONDS = 20.0
"""How long a swap waits for those who write."""


class Serving:
    """Swaps releases. model: its name; folder: where it lies.

    space: of the model's vectors of memories, None for none; has_space is set once it is known, and has_values once
    memories have such vectors.
    find_starter: releases.starter_of, for the model and a space.
    tell: told which release serves after each swap, None for the base; it must not raise.
    """

    def __init__(
        self,
        engine: Engine,
        memories: Memories,
        recollections: Recollections,
        model: str,
        folder: Path | None,
        find_starter: Callable[[str, str], Path | None] = starter_of,
        tell: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._memories = memories
        self._recollections = recollections
        self._model = model
        self._folder = folder
        self._find_starter = find_starter
        self._tell = tell
        self.space: str | None = None
        self.has_space = asyncio.Event()
        self.has_values = asyncio.Event()
        self.manifest: Manifest | None = None
        """Of the release that serves."""

    async def base(self) -> Base:
        """The model that is trained, once it is loaded. Raises ModelError if it cannot be trained."""
        await self._engine.ready()
        if self._folder is None:
            raise ModelError("This model does not lie in a local folder, so it cannot be trained.")
        await self.has_values.wait()
        space = self._memories.value_space
        if space is None:
            raise ModelError("The model has made no vectors of memories, so it cannot be trained; see the log.")
        sha256, starter = await asyncio.to_thread(digest, self._folder), await self._starter()
        return Base(self._model, sha256, self._folder, space, starter)

    async def swap(self, release: Path | None) -> None:
        """Serve a release, or the base. Turns that are being written end first. Raises ModelError: nothing changed."""
        manifest = None
        if release is not None:
            manifest = await asyncio.to_thread(read_manifest, release / "manifest.json")
            manifest.check(self._model, self.space or "")
        await self._engine.call(lambda model: model.use_release(release), drain=DRAIN_SECONDS)
        self.manifest = manifest
        self._memories.weigh(manifest.lanes if manifest else DAY_ZERO)  # type: ignore[arg-type]
        if manifest is None:
            self._recollections.use("", "both")
        else:
            self._recollections.use(manifest.release, manifest.trigger, manifest.margin)
        self._tell(manifest.release if manifest else None)
        log.info("release %s serves", manifest.release if manifest else "none")

    async def begin(self, releases: Releases) -> None:
        """Serve the release in force, once the model is there; one that does not fit is left, and told."""
        try:
            await self.has_space.wait()  # not for the vectors: until then the untrained model would answer
            releases.starter = await self._starter()
            if (current := await asyncio.to_thread(releases.current)) is not None:
                await self.swap(await asyncio.to_thread(releases.path, current))
        except QqmemError as error:
            log.error("the base serves, without a release: %s", error)

    async def pause(self) -> None:
        """Leave the GPU to others: the model computes on the CPU, and answers more slowly."""
        await self._engine.call(lambda model: model.move("cpu"), drain=DRAIN_SECONDS)

    async def resume(self) -> None:
        """Take the GPU back. Raises what torch raises if there is no room."""
        await self._engine.call(lambda model: model.move(None), drain=DRAIN_SECONDS)

    async def _starter(self) -> Path | None:
        return None if self.space is None else await asyncio.to_thread(self._find_starter, self._model, self.space)


def digest(folder: Path) -> str:
    """sha256 over the weights of a model."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            while block := weights.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
