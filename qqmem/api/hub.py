"""What happens in all conversations, in the memory and in the training, for any number of watchers.

What happens between two ticks is joined and encoded once, and every watcher gets the same text. To tell the hub costs
an append, however many watch and however slowly they read.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from qqmem.api import convert
from qqmem.api.scene import Scene
from qqmem.api.wire import Out, to_json
from qqmem.api.wire_bridge import BridgeLiveFrame, BridgeSeen
from qqmem.api.wire_live import (
    EngineFrame,
    HealthFrame,
    LaggedFrame,
    LiveTokenFrame,
    Load,
    ProgressFrame,
    ReleaseFrame,
    RunFrame,
)
from qqmem.api.wire_system import Health
from qqmem.api.wire_training import TrainingRun
from qqmem.chat import Event, Recalled, Token, TurnEnded, TurnStarted
from qqmem.engine.types import Stats
from qqmem.memory.types import Change
from qqmem.records import Message
from qqmem.runs import Run

log = logging.getLogger(__name__)

TICK = 1 / 15
"""Seconds between two batches."""
MOST_WAITING = 64
"""Batches that may wait for one watcher: some four seconds."""
LOOK_SECONDS, PROGRESS_SECONDS = 1.0, 0.25
"""How often the engine is looked at, and how often the progress of a training is told."""


class Watcher:
    """What one watcher is yet to be sent. Who does not take it in time skips, and gets a snapshot when it does."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, int]] = deque()
        self._filled = asyncio.Event()
        self._in_step = False
        self._missed: int | None = None
        """Frames, since it has fallen behind."""
        self._closed = False
        self.asks = False
        """It has taken all and waits for a snapshot."""

    def __len__(self) -> int:
        return len(self._waiting)

    async def take(self) -> str | None:
        """The next batch, a JSON array of frames; None once it is closed."""
        while not self._waiting:
            if self._closed:
                return None
            self.asks = not self._in_step
            self._filled.clear()
            await self._filled.wait()
        return self._waiting.popleft()[0]

    def offer(self, batch: str, n: int) -> None:
        """batch: of n frames."""
        if self._in_step and len(self._waiting) < MOST_WAITING:
            self._put(batch, n)
        elif self._in_step:
            self._in_step = False
            self._missed = n + sum(waiting for _, waiting in self._waiting)
            self._waiting.clear()
        elif self._missed is not None:
            self._missed += n

    def show(self, snapshot: str) -> None:
        """From here on it is in step again. snapshot: a frame."""
        if self._missed is not None:
            snapshot = f"{to_json(LaggedFrame(n=self._missed))},{snapshot}"
        self._in_step, self._missed, self.asks = True, None, False
        self._put(f"[{snapshot}]", 1)

    def close(self) -> None:
        """There is nothing more to take."""
        self._closed = True
        self._waiting.clear()
        self._filled.set()

    def _put(self, batch: str, n: int) -> None:
        self._waiting.append((batch, n))
        self._filled.set()


@dataclass(slots=True)
class _Growing:
    """Text of one turn and channel that was written since the last tick."""

    conversation: str
    last: Token
    texts: list[str]

    def frame(self) -> Out:
        token, text = self.last, "".join(self.texts)
        return LiveTokenFrame(
            turn=token.turn, channel=token.channel, text=text, n=token.n, conversation=self.conversation
        )


class Hub:
    """Is told what happens, and tells those who watch. All on the event loop; telling it never raises and never waits.

    look: how the service and its engine are. `run` ticks as long as somebody watches.
    """

    def __init__(
        self,
        look: Callable[[], tuple[Health, Stats]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._look = look
        self._clock = clock
        self._sleep = sleep
        self._scene = Scene()
        self._watchers: list[Watcher] = []
        self._is_watched = asyncio.Event()
        # Made into frames at the next tick: a fault in that is none of those who tell.
        self._pending: list[Callable[[], Out]] = []
        self._growing: dict[int, _Growing] = {}
        self._progress_since: float | None = None
        self._looked_at = -math.inf
        self._counted = 0
        self._health, self._load = self._seen(None)

    @property
    def bridges(self) -> tuple[BridgeSeen, ...]:
        """Those that are connected."""
        return self._scene.bridges

    @property
    def release(self) -> str | None:
        """The one that serves; None is the untrained model."""
        return self._scene.release

    # ---- what it is told ---------------------------------------------------------------------------------------------

    def publish(self, event: Event) -> None:
        """Something happens in a turn."""
        conversation = self._scene.take(event)
        if conversation is None or not self._watchers:
            return
        if isinstance(event, Token):
            self._join(event, conversation)
            return
        if event.turn is not None:  # what is written after it comes after it
            self._growing.pop(event.turn, None)
        match event:
            case TurnStarted() | TurnEnded():
                self._tell(partial(convert.live_turn, event))
            case Recalled():
                self._tell(partial(convert.live_recall, event, conversation))

    def heard(self, message: Message) -> None:
        """A message is stored."""
        self._tell(partial(convert.heard, message))

    def remembered(self, change: Change) -> None:
        """Memories have changed."""
        self._tell(partial(convert.memory_frame, change))

    def trained(self, run: Run, progress: Mapping[str, Any]) -> None:
        """A training run has changed, or goes on."""
        if run != self._scene.run:
            self._tell(lambda: RunFrame(run=TrainingRun.model_validate(run)))
        elif self._progress_since is None:
            self._progress_since = self._clock()
        self._scene.run, self._scene.progress = run, progress

    def released(self, release: str | None) -> None:
        """Another release serves; None is the untrained model."""
        self._scene.release = release
        self._tell(lambda: ReleaseFrame(release=release))

    def bridged(self, frame: BridgeLiveFrame) -> None:
        """Something is new about a bridge."""
        self._scene.bridged(frame)
        self._tell(lambda: frame)

    def _tell(self, frame: Callable[[], Out]) -> None:
        if self._watchers:
            self._pending.append(frame)

    def _join(self, token: Token, conversation: str) -> None:
        growing = self._growing.get(token.turn)
        if growing is not None and growing.last.channel == token.channel:
            growing.texts.append(token.text)
            growing.last = token
            return
        growing = self._growing[token.turn] = _Growing(conversation, token, [token.text])
        self._tell(growing.frame)

    # ---- those who watch ---------------------------------------------------------------------------------------------

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        """Until the end of the block; first comes a snapshot, at the next tick after the first `take`."""
        watcher = Watcher()
        if not self._watchers:
            self._looked_at = -math.inf
        self._watchers.append(watcher)
        self._is_watched.set()
        try:
            yield watcher
        finally:
            self._leave([watcher])

    async def run(self) -> None:
        """Tick, as long as somebody watches. After a fault of ours all watchers are closed, and new ones may come."""
        while True:
            await self._is_watched.wait()
            try:
                self.tick()
            except Exception:
                log.exception("what watchers are sent could not be made")
                self._leave(list(self._watchers))
            await self._sleep(TICK)

    def tick(self) -> None:
        """Hand out what has happened since the last one, and then snapshots to those who wait for one."""
        now = self._clock()
        self._tell_progress(now)
        self._look_around(now)
        pending, self._pending = self._pending, []
        self._growing.clear()
        if pending:
            batch = f"[{','.join(to_json(frame()) for frame in pending)}]"
            for watcher in self._watchers:
                watcher.offer(batch, len(pending))
        if asking := [watcher for watcher in self._watchers if watcher.asks]:
            snapshot = to_json(self._scene.snapshot(self._load, self._health))
            for watcher in asking:
                watcher.show(snapshot)

    def _leave(self, watchers: Sequence[Watcher]) -> None:
        for watcher in watchers:
            watcher.close()
        self._watchers = [one for one in self._watchers if one not in watchers]
        if not self._watchers:
            self._is_watched.clear()
            self._pending.clear()
            self._growing.clear()

    # ---- what it finds by itself -------------------------------------------------------------------------------------

    def _tell_progress(self, now: float) -> None:
        if self._progress_since is not None and now - self._progress_since >= PROGRESS_SECONDS:
            self._progress_since = None
            if progress := self._scene.now():
                self._tell(partial(ProgressFrame.model_validate, progress))

    def _look_around(self, now: float) -> None:
        seconds = now - self._looked_at
        if seconds < LOOK_SECONDS:
            return
        written = self._scene.written - self._counted
        self._looked_at, self._counted = now, self._scene.written
        health, load = self._seen(round(written / seconds, 1) if math.isfinite(seconds) else None)
        if health != self._health:
            self._tell(partial(HealthFrame, health=health))
        if load != self._load:
            self._tell(partial(EngineFrame.model_validate, load))
        self._health, self._load = health, load

    def _seen(self, tokens_s: float | None) -> tuple[Health, Load]:
        health, stats = self._look()
        return health, Load(running=stats.running, waiting=stats.waiting, tokens_s=tokens_s)
