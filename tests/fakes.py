"""Fakes behind the real Protocols: a writer that a test plays by hand, or that recites."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable

from qqmem.engine.text import Channels
from qqmem.engine.types import Channel, Finish, FinishReason, Item, Piece, Request, Timing, Usage
from tests.fakes_engine import text_of


class Writing:
    """One request in the hands of the test. What is written goes through the engine's own channels."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.prompt = text_of(request.prompt)
        """What the model reads, control tokens as ⟨role⟩. For prompts of CharTokenizer."""
        self.closed = asyncio.Event()
        """Set when nobody reads any more: at the end, or cancelled."""
        self.items: asyncio.Queue[Piece | Finish | Exception] = asyncio.Queue()
        self._channels = Channels(request.channel, request.stop)
        self._num_new = 0

    def write(self, text: str) -> None:
        """Write text, each character a token; tags such as </think> or <action> do what they do in the engine."""
        for char in text:
            self._num_new += 1
            self._put(self._channels.push(char))

    def finish(self, reason: FinishReason = "stop") -> None:
        self._put(self._channels.flush())
        usage = Usage(len(self.request.prompt), 0, self._num_new)
        self.items.put_nowait(Finish(reason, usage, Timing(0.25, 0.5, 1.0)))

    def fail(self, error: Exception) -> None:
        self.items.put_nowait(error)

    def _put(self, pieces: Iterable[tuple[str, Channel]]) -> None:
        for text, channel in pieces:
            self.items.put_nowait(Piece(text, channel, self._num_new))


class ScriptedWriter:
    """Stands for the engine.

    script: writes the answer to a prompt (as text) at once, and may raise. Without one, each request waits for the
    test: `writing = await writer.next()`, then `writing.write("你好")`, `writing.finish()`.
    """

    def __init__(self, script: Callable[[str], str] | None = None) -> None:
        self.writings: list[Writing] = []
        self._script = script
        self._begun: asyncio.Queue[Writing] = asyncio.Queue()

    @property
    def running(self) -> int:
        """Requests that somebody reads."""
        return sum(not writing.closed.is_set() for writing in self.writings)

    async def next(self) -> Writing:
        """Wait for the next request, in the order in which they come."""
        return await self._begun.get()

    async def stream(self, request: Request) -> AsyncGenerator[Item]:
        twins = [one for one in self.writings if one.request.conversation == request.conversation]
        assert all(one.closed.is_set() for one in twins), "two turns of one conversation at a time"
        writing = Writing(request)
        self.writings.append(writing)
        self._begun.put_nowait(writing)
        try:
            if self._script is not None:
                writing.write(self._script(writing.prompt))
                writing.finish()
            while True:
                item = await writing.items.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, Finish):
                    return
        finally:
            writing.closed.set()
