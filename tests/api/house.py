"""A hub whose clock and service are in the hands of the test."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from qqmem.api.hub import TICK, Hub, Watcher
from qqmem.api.wire_system import Health
from qqmem.chat import Token, TurnEnded, TurnStarted
from qqmem.engine.types import Stats
from qqmem.records import Message, Sender
from qqmem.runs import Run
from tests.api.dashboard import Dashboard, take_all

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
GREEN = Health(status="ok", model="m", version="1")
RUN = Run(3, "schedule", "running", "stage1", NOW, None, "", "", {}, "mark", 5, "born")
MESSAGE = Message(41, "private:1", "user", "m-1", Sender("1", "小明"), "你好", None, False, NOW, None, False)
Channel = Literal["think", "memory", "reply"]


@dataclass
class House:
    """stats, health: what the hub sees when it looks; looks: how often it has."""

    time: float = 0.0
    stats: Stats = field(default_factory=Stats)
    health: Health = field(default_factory=GREEN.model_copy)
    looks: int = 0

    def __post_init__(self) -> None:
        self.hub = Hub(self.look, clock=lambda: self.time)

    def look(self) -> tuple[Health, Stats]:
        self.looks += 1
        return self.health, self.stats

    def tick(self, seconds: float = TICK) -> None:
        self.time += seconds
        self.hub.tick()

    def begin(self, turn: int) -> None:
        self.hub.publish(TurnStarted(turn, f"private:{turn}", (turn,)))

    def write(self, turn: int, text: str, channel: Channel = "reply", start: int = 0) -> None:
        for n, char in enumerate(text, start + 1):
            self.hub.publish(Token(turn, channel, char, n))

    def end(self, turn: int) -> None:
        self.hub.publish(TurnEnded(turn, f"private:{turn}", "replied", "好"))


async def look_in(house: House, watcher: Watcher) -> Dashboard:
    """A dashboard of somebody who has just come."""
    dashboard = Dashboard()
    await take_all(watcher, dashboard)
    house.tick()
    await take_all(watcher, dashboard)
    assert dashboard.snapshots == 1
    return dashboard


async def frames_of(
    house: House, watcher: Watcher, dashboard: Dashboard, seconds: float = TICK
) -> list[dict[str, Any]]:
    since = len(dashboard.frames)
    house.tick(seconds)
    await take_all(watcher, dashboard)
    return dashboard.frames[since:]
