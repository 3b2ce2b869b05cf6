"""What the event loop asks of the worker thread, and how the thread answers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qqmem.engine.types import Ask, Found, Item, Model, Request


@dataclass(eq=False)
class Ticket:
    """One request in flight: written by the worker, read by one coroutine."""

    request: Request
    loop: asyncio.AbstractEventLoop
    submitted: float
    # As deep as a reply has tokens, so max_new_tokens bounds it.
    outbox: asyncio.Queue[Sequence[Item | Ask] | Exception] = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def deadline(self) -> float:
        return self.submitted + self.request.time_limit

    def post(self, items: Sequence[Item | Ask] | Exception) -> None:
        post(self.loop, self.outbox.put_nowait, items)


@dataclass(frozen=True)
class Call:
    """A function to run between two steps; with a deadline, only once nobody writes, or it has passed."""

    fn: Callable[[Model], Any]
    future: asyncio.Future[Any]
    deadline: float | None = None

    def settle(self, result: Any, error: BaseException | None) -> None:
        post(self.future.get_loop(), settle_future, self.future, result, error)


@dataclass(frozen=True)
class Answer:
    """What was found for a request that asked for a memory."""

    ticket: Ticket
    found: Found | None


class Stop:
    """Ends the thread once everything queued before it has been taken."""


Command = Ticket | Call | Answer | Stop


def post(loop: asyncio.AbstractEventLoop, fn: Callable[..., object], *args: object) -> None:
    """Call `fn` on the loop, from any thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is listening any more
        loop.call_soon_threadsafe(fn, *args)


def settle_future(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """On the loop: give a future its result or error."""
    if future.done():  # the awaiter was cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
