"""Whatever happens in whatever order: nothing is lost, everyone hears the end, and nothing is left over."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given, settings, strategies as st

from qqmem.chat import Event, Reply, TurnEnded, TurnStarted
from tests.fakes import Writing
from tests.talk import Talk, open_talk

CONVERSATIONS = ("private:7", "group:7", "group:8")


@dataclass(frozen=True)
class Send:
    conversation: str
    addressed: bool


@dataclass(frozen=True)
class Cancel:
    conversation: str


@dataclass(frozen=True)
class Withdraw:
    """The n-th newest message."""

    conversation: str
    n: int


@dataclass(frozen=True)
class Leave:
    """The n-th newest reply."""

    n: int


@dataclass(frozen=True)
class Write:
    """Let one of the open requests go on: to its end, to an error, or by a piece."""

    n: int
    how: str


@dataclass(frozen=True)
class Pause:
    """Let the others work for as long as some queries take."""

    queries: int


Step = Send | Cancel | Withdraw | Leave | Write | Pause

conversations = st.sampled_from(CONVERSATIONS)
few = st.integers(0, 3)
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.builds(Send, conversations, st.booleans())
    | st.builds(Send, conversations, st.booleans())
    | st.builds(Pause, st.integers(1, 8))
    | st.builds(Write, few, st.sampled_from(["end", "error", "piece", "silence"]))
    | st.builds(Cancel, conversations)
    | st.builds(Withdraw, conversations, few)
    | st.builds(Leave, few),
    min_size=12,
    max_size=60,
)


class Play:
    """Carries out one schedule. Nothing is waited for but what a Pause lets happen."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.sent: dict[str, list[str]] = {conversation: [] for conversation in CONVERSATIONS}
        self.replies: list[Reply] = []
        self.left: list[Reply] = []
        self.tasks: list[asyncio.Task[object]] = []

    async def run(self, schedule: list[Step]) -> None:
        for step in schedule:
            match step:
                case Send(conversation, addressed):
                    self._start(self._send(conversation, addressed))
                case Cancel(conversation):
                    self._start(self.talk.chats.cancel(conversation))
                case Withdraw(conversation, n):
                    newest = len(self.sent[conversation]) - 1
                    self._start(self.talk.chats.withdraw(conversation, f"m{newest - n}"))
                case Leave(n) if n < len(self.replies):
                    reply = self.replies[-1 - n]
                    self.left.append(reply)
                    await reply.aclose()
                case Write(n, how):
                    write(self._open(), n, how)
                case Pause(queries):
                    for _ in range(queries):
                        await self.talk.history.turn(0)

    async def end(self) -> None:
        """Let everyone come to the end: each request that comes is answered."""
        answering = asyncio.create_task(self._answer())
        await asyncio.gather(*self.tasks)
        for reply in self.replies:
            if reply not in self.left:
                await reply.end()
        answering.cancel()
        await asyncio.wait([answering])

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def _send(self, conversation: str, addressed: bool) -> None:
        n = len(self.sent[conversation])
        self.sent[conversation].append(f"{n}")
        self.replies.append(await self.talk.say(f"{n}", conversation, addressed=addressed, message_id=f"m{n}"))

    def _open(self) -> list[Writing]:
        return [writing for writing in self.talk.writer.writings if not writing.closed.is_set()]

    async def _answer(self) -> None:
        for writing in self._open():
            write([writing], 0, "end")
        while True:
            write([await self.talk.writer.next()], 0, "end")


def write(writings: list[Writing], n: int, how: str) -> None:
    if not writings:
        return
    writing = writings[n % len(writings)]
    match how:
        case "end":
            writing.write("好")
            writing.finish()
        case "silence":
            writing.write("<no_reply>")
            writing.finish()
        case "error":
            writing.fail(RuntimeError("planted"))
        case "piece":
            writing.write("嗯")


async def play(folder: Path, schedule: list[Step], policy: str, interrupt: str, closes_early: bool) -> None:
    async with open_talk(folder, chat={"group_policy": policy, "interrupt": interrupt}) as talk:
        play = Play(talk)
        await play.run(schedule)
        if closes_early:
            await asyncio.gather(*play.tasks)
            await talk.chats.__aexit__()
        await play.end()
        await talk.chats.__aexit__()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        check_events(talk.events, len(play.replies))
        for conversation, texts in play.sent.items():
            if texts:
                stored = await talk.history.messages(conversation, 1000)
                assert [message.text for message in stored if message.role == "user"] == texts
        await check_turns(talk)
        for reply in play.replies:
            await check_reply(reply, was_left=reply in play.left)


def check_events(events: list[Event], num_messages: int) -> None:
    """Every turn that began has ended, once; and nobody was told more than one end."""
    began = Counter(event.turn for event in events if isinstance(event, TurnStarted))
    ended = Counter(event.turn for event in events if isinstance(event, TurnEnded) and event.turn is not None)
    assert began == ended
    assert set(began.values()) <= {1}
    assert sum(isinstance(event, TurnEnded) for event in events) >= num_messages


async def check_turns(talk: Talk) -> None:
    """What was told of every turn is what is stored of it."""
    told = {event.turn: event for event in talk.events if isinstance(event, TurnEnded)}
    for conversation in CONVERSATIONS:
        for turn in await talk.turns(conversation):
            assert turn.end.outcome == told[turn.id].outcome
            assert turn.ended_at is not None


async def check_reply(reply: Reply, was_left: bool) -> None:
    assert [event async for event in reply] == [], "an event after the end"
    if not was_left:
        assert (await reply.end()).outcome in ("replied", "no_reply", "superseded", "cancelled", "failed")


@settings(max_examples=60, deadline=None)
@given(
    steps,
    st.sampled_from(["addressed", "model"]),
    st.sampled_from(["addressed", "always", "never"]),
    st.booleans(),
)
def test_no_schedule_loses_a_message_or_leaves_anyone_waiting(
    schedule: list[Step], policy: str, interrupt: str, closes_early: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder), schedule, policy, interrupt, closes_early))
