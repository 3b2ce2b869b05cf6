"""What is told of a turn while it is written, and the one whom it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self

from qqmem.engine.types import Timing, Usage
from qqmem.records import Action, Message, Outcome, Recall

NO_USAGE = Usage(0, 0, 0)
NO_TIMING = Timing(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The bot begins to answer these messages (row ids). message_ids: the platform's, of those that have one."""

    turn: int
    conversation: str
    messages: tuple[int, ...]
    message_ids: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Token:
    """Text of a turn as it is written. n: new tokens so far.

    The texts of channel "reply", joined, are the reply. Channel "memory" is a recalled text.
    """

    turn: int
    channel: Literal["think", "memory", "reply"]
    text: str
    n: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """A turn has looked for a memory; its text, if there is one, came before as a Token."""

    turn: int
    recall: Recall


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """What became of a message, or of several that were answered together.

    turn: None if there was no turn: the bot stays silent, or a newer message took this one along before it began.
    reply: empty unless the outcome is "replied".
    usage, timing: of a turn that was stopped, only the tokens are known.
    error, code: one sentence, and its name on the wire; empty unless the outcome is "failed".
    """

    turn: int | None
    conversation: str
    outcome: Outcome
    reply: str = ""
    actions: tuple[Action, ...] = ()
    usage: Usage = NO_USAGE
    timing: Timing = NO_TIMING
    error: str = ""
    code: str = ""


Event = TurnStarted | Token | Recalled | TurnEnded


class Reply:
    """What one sender waits for: the events of the turn that answers its message, the last of them a TurnEnded.

    `async for event in reply` ends after the TurnEnded. Leaving before it (aclose, or the end of `async with`)
    cancels the turn, since nobody else waits for it. When a message is withdrawn, the turn may start anew without
    it: then a second TurnStarted comes, and what was written before is void.

    message: as it is stored, or has been stored before if it is a duplicate. Set once Chats.send has returned.
    """

    message: Message

    def __init__(self, leave: Callable[[Reply], None]) -> None:
        # An entry for each token, so generation.max_new_tokens bounds it.
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._leave = leave
        self._end: TurnEnded | None = None
        self._over = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._over:
            raise StopAsyncIteration
        event = await self._events.get()
        self._over = isinstance(event, TurnEnded)
        return event

    async def aclose(self) -> None:
        """Leave: no events come any more, and the turn is cancelled if it has not ended."""
        self._over = True
        if self._end is None:
            self._leave(self)

    async def end(self) -> TurnEnded:
        """Wait for the end, skipping what comes before it."""
        async for _ in self:
            pass
        assert self._end is not None, "the end of a reply that was left"
        return self._end

    def put(self, event: Event) -> None:
        """Hand over the next event."""
        assert self._end is None, "nothing comes after the end"
        self._end = event if isinstance(event, TurnEnded) else None
        self._events.put_nowait(event)
