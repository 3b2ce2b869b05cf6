"""The worker: one thread owns the model; everyone else sends it commands and reads streams.

The loop is: take commands, drop what was cancelled, admit what waits, make one step for all, deliver.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from qqmem.engine.generation import Generation, expired
from qqmem.engine.scheduler import plan
from qqmem.engine.types import Finish, Model, Piece, Request, Row, Stats
from qqmem.errors import EngineStopped

log = logging.getLogger(__name__)

T = TypeVar("T")
State = Literal["loading", "ready", "failed", "stopped"]


@dataclass(eq=False)
class _Ticket:
    """One request in flight: written by the worker, read by one coroutine."""

    request: Request
    loop: asyncio.AbstractEventLoop
    submitted: float
    # As deep as a reply has tokens, so max_new_tokens bounds it.
    outbox: asyncio.Queue[list[Piece | Finish] | Exception] = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def deadline(self) -> float:
        return self.submitted + self.request.time_limit

    def post(self, items: list[Piece | Finish] | Exception) -> None:
        _post(self.loop, self.outbox.put_nowait, items)


@dataclass(frozen=True)
class _Call:
    fn: Callable[[Model], Any]
    future: asyncio.Future[Any]

    def settle(self, result: Any, error: BaseException | None) -> None:
        _post(self.future.get_loop(), _settle, self.future, result, error)


class _Stop:
    """Ends the thread once everything queued before it has been taken."""


_Command = _Ticket | _Call | _Stop


def _post(loop: asyncio.AbstractEventLoop, fn: Callable[..., object], *args: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is listening any more
        loop.call_soon_threadsafe(fn, *args)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # the awaiter was cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class Engine:
    """Async face of the worker thread.

    `async with Engine(load) as engine` starts the thread at once and does not wait for the model: requests that
    come before it is loaded wait in line. Leaving the block ends every stream with EngineStopped and joins the
    thread.

    load: called on the worker thread; what it returns is never touched by another.
    max_batch: replies written at the same time. prefill_chunk: prompt tokens read in one step, over all replies.
    """

    def __init__(self, load: Callable[[], Model], *, max_batch: int = 4, prefill_chunk: int = 256) -> None:
        self.stats = Stats()
        self.state: State = "loading"
        self._load = load
        self._max_batch = max_batch
        self._prefill_chunk = prefill_chunk
        self._inbox: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._waiting: list[_Ticket] = []
        self._running: dict[_Ticket, Generation] = {}
        self._thread = threading.Thread(target=self._run, name="model-worker")

    async def __aenter__(self) -> Engine:
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Model] = self._loop.create_future()
        self._failed: asyncio.Future[BaseException] = self._loop.create_future()
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.state != "failed":
            self.state = "stopped"
        self._inbox.put(_Stop())
        joined = self._loop.run_in_executor(None, self._thread.join)
        try:
            await asyncio.shield(joined)
        finally:  # a cancelled shutdown still waits for the thread: it may be in a forward that nothing can break off
            await joined
            if not self._ready.cancel():
                self._ready.exception()  # mark it as seen: a failed load is told by wait_failed
            self._failed.cancel()

    async def ready(self) -> Model:
        """Wait until the model is loaded. Raises what `load` raised."""
        return await asyncio.shield(self._ready)

    async def wait_failed(self) -> BaseException:
        """Return the error when loading has failed or the thread has crashed; until then, wait."""
        return await asyncio.shield(self._failed)

    async def stream(self, request: Request) -> AsyncGenerator[Piece | Finish, None]:
        """Yield the pieces of one text and, last, its Finish. Closing the iterator cancels the request.

        Raises EngineError, or what the model raised for this request.
        """
        ticket = _Ticket(request, self._loop, time.monotonic())
        self._submit(ticket)
        try:
            while True:
                items = await ticket.outbox.get()
                if isinstance(items, Exception):
                    raise items
                for item in items:
                    yield item
                    if isinstance(item, Finish):
                        return
        finally:
            ticket.cancelled.set()

    async def call(self, fn: Callable[[Model], T]) -> T:
        """Run `fn(model)` on the worker thread between two steps."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._submit(_Call(fn, future))
        return await future

    def _submit(self, command: _Command) -> None:
        if self.state in ("stopped", "failed"):
            raise EngineStopped("The model is not running; try again when the service has started again.")
        self._inbox.put(command)

    # ---- worker thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            model = self._load()
        except BaseException as error:
            self._fail(error)
            _post(self._loop, _settle, self._ready, None, error)
            return
        if self.state == "loading":
            self.state = "ready"
        _post(self._loop, _settle, self._ready, model, None)
        try:
            while self._take(model):
                self._reap(model)
                self._admit(model)
                self._step(model)
                self.stats.running, self.stats.waiting = len(self._running), len(self._waiting)
            for generation in self._running.values():
                model.release(generation.running, None)
            model.close()
        except BaseException as error:
            log.exception("the model thread has crashed")
            self._fail(error)
        finally:
            self._abandon()

    def _fail(self, error: BaseException) -> None:
        self.state = "failed"
        _post(self._loop, _settle, self._failed, error, None)
        self._abandon()

    def _abandon(self) -> None:
        """Tell everyone who still waits that nothing will come."""
        stopped = EngineStopped("The model has stopped before the reply was finished.")
        for command in [*self._running, *self._waiting, *self._drain()]:
            if isinstance(command, _Ticket):
                command.post(stopped)
            elif isinstance(command, _Call):
                command.settle(None, stopped)

    def _drain(self) -> Iterator[_Command]:
        while not self._inbox.empty():
            yield self._inbox.get()

    def _take(self, model: Model) -> bool:
        """Take all commands, blocking only when there is nothing to write. False when told to stop."""
        going_on = True
        idle = not (self._running or self._waiting)
        for command in (self._inbox.get(),) if idle else self._drain():
            match command:
                case _Stop():
                    going_on = False
                case _Call(fn):
                    self._answer(command, fn, model)
                case _Ticket():
                    self._waiting.append(command)
        return going_on

    def _answer(self, call: _Call, fn: Callable[[Model], Any], model: Model) -> None:
        try:
            result = fn(model)
        except Exception as error:  # the caller's own function: its error is the caller's
            call.settle(None, error)
        except BaseException:  # it ends the thread; the loop must not meet it
            call.settle(None, EngineStopped("The model has stopped before this was done."))
            raise
        else:
            call.settle(result, None)

    def _reap(self, model: Model) -> None:
        """Drop what was cancelled, and end what has run out of time."""
        now = time.monotonic()
        for ticket, generation in list(self._running.items()):
            if ticket.cancelled.is_set():
                self.stats.cancelled += 1
                self._end(model, ticket)
            elif now > ticket.deadline:
                self._finish(model, ticket, generation.finish("time", now))
        for ticket in list(self._waiting):
            if ticket.cancelled.is_set() or now > ticket.deadline:
                self._waiting.remove(ticket)
                ticket.post([expired(ticket.request, ticket.submitted, now)])

    def _admit(self, model: Model) -> None:
        self._waiting.sort(key=lambda ticket: ticket.request.priority)  # stable: first come, first served
        while self._waiting and len(self._running) < self._max_batch:
            # A ticket leaves the line when it is told or runs: a crash in between must find it.
            ticket = self._waiting[0]
            try:
                now = time.monotonic()
                self._running[ticket] = Generation.start(ticket.request, model, ticket.submitted, now)
            except Exception as error:  # this request's alone
                self.stats.failed += 1
                ticket.post(error)
            self._waiting.remove(ticket)

    def _step(self, model: Model) -> None:
        tickets = list(self._running)
        rows = plan([self._running[t] for t in tickets], self._prefill_chunk)
        if not rows:
            return
        try:
            tokens: list[int | None] = model.step([row for _, row in rows])
        except Exception as error:
            if len(rows) > 1:  # find out whose fault it is
                for index, row in rows:
                    self._step_alone(model, tickets[index], row)
                return
            self._drop(model, tickets[rows[0][0]], error)
            return
        for (index, row), token in zip(rows, tokens, strict=True):
            self._deliver(model, tickets[index], row, token)
        self.stats.steps += 1

    def _step_alone(self, model: Model, ticket: _Ticket, row: Row) -> None:
        try:
            (token,) = model.step([row])
        except Exception as error:
            self._drop(model, ticket, error)
        else:
            self._deliver(model, ticket, row, token)

    def _deliver(self, model: Model, ticket: _Ticket, row: Row, token: int | None) -> None:
        generation = self._running[ticket]
        now = time.monotonic()
        items = generation.advance(row, token, now)
        if generation.reason is not None:
            self._finish(model, ticket, [*items, *generation.finish(generation.reason, now)])
        elif items:
            ticket.post([*items])

    def _finish(self, model: Model, ticket: _Ticket, items: list[Piece | Finish]) -> None:
        usage = self._running[ticket].usage
        self.stats.finished += 1
        self.stats.prompt_tokens += usage.prompt
        self.stats.cached_tokens += usage.cached
        self.stats.new_tokens += usage.completion
        self._end(model, ticket)
        ticket.post(items)

    def _drop(self, model: Model, ticket: _Ticket, error: Exception) -> None:
        log.error("a request has failed", exc_info=error)
        self.stats.failed += 1
        model.release(self._running[ticket].running, None)
        del self._running[ticket]
        ticket.post(error)

    def _end(self, model: Model, ticket: _Ticket) -> None:
        # Released first: if that crashes the thread, the ticket is still there to be told.
        model.release(self._running[ticket].running, ticket.request.conversation)
        self.stats.kv_bytes = model.kv_bytes
        del self._running[ticket]
