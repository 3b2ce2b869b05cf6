"""Whatever is said, resent, cut off and killed: each message is answered by one delivery, and that until it is over."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

from hypothesis import given, settings, strategies as st

from tests.api.conftest import Service, Stage, make_settings, running
from tests.api.far_end import FarEnd, far_end, image

Step = Literal["say", "repeat", "read", "outcome", "reconnect", "replace", "kill", "restart"]
steps = st.lists(
    st.sampled_from(["say", "say", "repeat", "read", "outcome", "reconnect", "replace", "kill", "restart"]), max_size=14
)


class World:
    """A bridge that remembers what it must, and a service that it cannot trust to live."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lives = 0
        self._service_ending = AsyncExitStack()
        self._end_ending = AsyncExitStack()
        self.inbox: dict[int, bool] = {}
        """Frames by seq, and whether each is acknowledged."""
        self.deliveries: dict[int, dict[str, Any]] = {}
        self.over: set[int] = set()
        """Deliveries whose outcome the service has certainly heard."""
        self._here: list[int] = []
        """Deliveries of this connection."""
        self._read = 0

    async def begin(self) -> None:
        options = make_settings(self._folder / str(self._lives), server={"drain_seconds": 0.0})
        context = running(options, Stage())
        self.service: Service = await self._service_ending.enter_async_context(context)
        await self.connect()

    async def connect(self) -> None:
        self.end: FarEnd = await self._end_ending.enter_async_context(far_end(self.service))
        self._here, self._read = [], 0
        for seq in self.inbox:
            self.inbox[seq] = self.inbox[seq] or seq <= self.end.welcome["resume_from"]
        for seq in [seq for seq, is_stored in self.inbox.items() if not is_stored]:
            await self._say(seq)

    async def do(self, step: Step) -> None:
        match step:
            case "say":
                seq = len(self.inbox) + 1
                self.inbox[seq] = False
                await self._say(seq)
            case "repeat" if self.inbox:
                await self._say(max(self.inbox))
            case "read":
                await self.settle()
            case "outcome" if waiting := [one for one in self._here if one not in self.over]:
                await self.settle()
                await self.end.delivered(self.deliveries[waiting[0]], str(10_000 + waiting[0]))
                self.over.add(waiting[0])
                self._look()
            case "reconnect":
                await self._end_ending.aclose()
                await self.connect()
            case "replace":
                await self.connect()
            case "kill":
                now, self._lives = self._folder / str(self._lives), self._lives + 1
                await asyncio.to_thread(image, now, self._folder / str(self._lives))
                await self._again()
            case "restart":
                await self._again()

    async def _again(self) -> None:
        await self._service_ending.aclose()
        await self._end_ending.aclose()
        await self.begin()

    async def _say(self, seq: int) -> None:
        await self.end.say(seq, f"第{seq}条", f"private:{seq % 2}")

    async def settle(self) -> None:
        await self.end.settled()
        self._look()

    def _look(self) -> None:
        """Take in what has been read, and check it."""
        seen, self._read = self.end.seen[self._read :], len(self.end.seen)
        for frame in seen:
            if frame["type"] == "ack":
                self.inbox[frame["seq"]] = True
            assert frame["type"] != "error", frame
            if frame["type"] == "delivery":
                number = frame["delivery_id"]
                assert number not in self._here, "twice on one connection"
                assert number not in self.over, "again, though it was over"
                assert self._here == sorted(self._here)
                assert number > max(self._here, default=0), "out of order"
                assert self.deliveries.setdefault(number, frame) == frame, "another one under the same id"
                self._here.append(number)

    async def finish(self) -> None:
        """Connect once more, and wait until all that was said is answered."""
        await self._end_ending.aclose()
        await self.connect()
        while self.unanswered():
            await self.end.until("delivery")
            self._look()
        answered = [one for frame in self.deliveries.values() for one in frame["in_reply_to"]]
        assert len(answered) == len(set(answered)), "answered twice"
        for chat in range(2):
            messages, _ = await self.service.stored(f"private:{chat}")
            said = [message.text for message in messages if message.role == "user"]
            assert said == [f"第{seq}条" for seq in self.inbox if seq % 2 == chat]
        assert set(self.deliveries) - self.over == set(self._here) - self.over, "lost before it was over"
        await self._end_ending.aclose()
        await self._service_ending.aclose()

    def unanswered(self) -> set[str]:
        answered = {one for frame in self.deliveries.values() for one in frame["in_reply_to"]}
        return {f"{seq}00" for seq in self.inbox} - answered


async def play(folder: Path, schedule: list[Step]) -> None:
    world = World(folder)
    await world.begin()
    for step in schedule:
        await world.do(step)
    await world.finish()


@settings(max_examples=12, deadline=None)
@given(steps)
def test_every_message_is_answered_by_one_delivery(schedule: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder), schedule))
