"""One who watches, and draws itself from a snapshot and the frames behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from qqmem.api.hub import Watcher
from qqmem.api.wire_live import LiveFrame, SnapshotFrame

FRAME: TypeAdapter[LiveFrame] = TypeAdapter(LiveFrame)


class Dashboard:
    """Loud about what cannot follow on what it has drawn.

    turns: those being written, as in a snapshot. missed: frames that it was told it has lagged behind by, each time.
    """

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.turns: dict[int, dict[str, Any]] = {}
        self.missed: list[int] = []
        self.snapshots = 0
        self._must_be_drawn = True

    @property
    def texts(self) -> dict[int, Mapping[str, str]]:
        """What the turns have written so far, by channel."""
        return {id: turn["text"] for id, turn in self.turns.items()}

    def take(self, batch: str) -> None:
        for frame in json.loads(batch):
            self.frames.append(frame)
            self._draw(frame)

    def _draw(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "lagged":
            self.missed.append(frame["n"])
            self._must_be_drawn = True
        elif kind == "snapshot":
            SnapshotFrame.model_validate(frame)
            assert self._must_be_drawn, "a snapshot that nobody needs"
            self._must_be_drawn = False
            self.snapshots += 1
            self.turns = {turn["turn"]: turn for turn in frame["turns"]}
        else:
            assert not self._must_be_drawn, "a frame before the snapshot"
            FRAME.validate_python(frame)
            self._go_on(kind, frame)

    def _go_on(self, kind: str, frame: dict[str, Any]) -> None:
        if kind == "turn.start":
            assert frame["turn"] not in self.turns
            self.turns[frame["turn"]] = {**frame, "text": {}, "n": 0, "recalls": []}
        elif kind == "turn.end" and "turn" in frame:
            del self.turns[frame["turn"]]
        elif kind in ("token", "recall"):
            turn = self.turns[frame["turn"]]
            assert frame["conversation"] == turn["conversation"]
            if kind == "recall":
                turn["recalls"].append(frame["cue"])
                return
            assert turn["n"] <= frame["n"]
            turn["n"] = frame["n"]
            turn["text"][frame["channel"]] = turn["text"].get(frame["channel"], "") + frame["text"]


async def take_all(watcher: Watcher, dashboard: Dashboard) -> int:
    """Whatever waits now. Returns the number of batches."""
    taken = 0
    while True:
        try:
            async with asyncio.timeout(0):
                batch = await watcher.take()
        except TimeoutError:  # it waits for more
            return taken
        if batch is None:
            return taken
        dashboard.take(batch)
        taken += 1
