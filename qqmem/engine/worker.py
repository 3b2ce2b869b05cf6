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
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from qqmem.engine.generation import Generation, expired
from qqmem.engine.inbox import Answer, Call, Command, Stop, Ticket, post, settle_future
from qqmem.engine.scheduler import plan
from qqmem.engine.types import (
    BACKGROUND,
    Ask,
    Finish,
    Found,
    Item,
    Model,
    Recalling,
    Request,
    Row,
    State as HiddenState,
    Stats,
    Vector,
)
from qqmem.errors import EngineStopped

log = logging.getLogger(__name__)

T = TypeVar("T")
State = Literal["loading", "ready", "failed", "stopped"]


class Engine:
    """Async face of the worker thread.

    `async with Engine(load) as engine` starts the thread at once and does not wait for the model: requests that
    come before it is loaded wait in line. Leaving the block ends every stream with EngineStopped and joins the
    thread.

    load: called on the worker thread; what it returns is never touched by another.
    max_batch: replies written at the same time. One background request may run beside them, and as many as there are
        replies of those that rest while somebody waits (Request.base).
    prefill_chunk: prompt tokens read in one step, over all replies.
    """

    def __init__(self, load: Callable[[], Model], *, max_batch: int = 4, prefill_chunk: int = 256) -> None:
        self.stats = Stats()
        self.state: State = "loading"
        self._load = load
        self._max_batch = max_batch
        self._prefill_chunk = prefill_chunk
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._waiting: list[Ticket] = []
        self._running: dict[Ticket, Generation] = {}
        self._draining: Call | None = None
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
        self._inbox.put(Stop())
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

    async def stream(self, request: Request) -> AsyncGenerator[Item, None]:
        """Yield the pieces of one text and, last, its Finish. Closing the iterator cancels the request.

        Whoever reads the stream also looks for the memories that the model asks for (Request.recall).
        Raises EngineError, or what the model raised for this request.
        """
        ticket = Ticket(request, self._loop, time.monotonic())
        self._submit(ticket)
        try:
            while True:
                items = await ticket.outbox.get()
                if isinstance(items, Exception):
                    raise items
                for item in items:
                    if isinstance(item, Ask):
                        assert request.recall is not None, "nobody else asks"
                        await self._look_up(ticket, request.recall, item)
                        continue
                    yield item
                    if isinstance(item, Finish):
                        return
        finally:
            ticket.cancelled.set()
            self._inbox.put(Answer(ticket, None))  # wakes a thread that waits for nothing but this reader's answer

    async def encode(self, prompt: Sequence[int], priority: int = BACKGROUND) -> Vector:
        """The hidden state of the prompt's last token, after the final norm: [hidden]. Raises as `stream` does."""
        request = Request(tuple(prompt), 1, priority=priority, wants="state")
        async with contextlib.aclosing(self.stream(request)) as items:
            async for item in items:
                if isinstance(item, HiddenState):
                    return item.vector
        raise EngineStopped("The model had no time for this.")

    async def call(self, fn: Callable[[Model], T], *, drain: float | None = None) -> T:
        """Run `fn(model)` on the worker thread between two steps.

        drain: seconds for those who write to end before it; whoever comes meanwhile waits in line.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._submit(Call(fn, future, None if drain is None else time.monotonic() + drain))
        return await future

    async def _look_up(self, ticket: Ticket, recall: Recalling, ask: Ask) -> None:
        """Find what a request asks for, within its time. It goes on without, whatever happens."""
        found = None
        left = None if ticket.deadline == float("inf") else ticket.deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                found = await recall.find(ask)
        except Exception:
            log.exception("a memory could not be looked for; the reply goes on without")
        self._inbox.put(Answer(ticket, found))

    def _submit(self, command: Command) -> None:
        if self.state in ("stopped", "failed"):
            raise EngineStopped("The model is not running; try again when the service has started again.")
        self._inbox.put(command)

    # ---- worker thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            model = self._load()
        except BaseException as error:
            self._fail(error)
            post(self._loop, settle_future, self._ready, None, error)
            return
        if self.state == "loading":
            self.state = "ready"
        post(self._loop, settle_future, self._ready, model, None)
        try:
            while self._take(model):
                self._reap(model)
                self._drain_out(model)
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
        post(self._loop, settle_future, self._failed, error, None)
        self._abandon()

    def _abandon(self) -> None:
        """Tell everyone who still waits that nothing will come."""
        stopped = EngineStopped("The model has stopped before the reply was finished.")
        draining = [self._draining] if self._draining is not None else []
        for command in [*self._running, *self._waiting, *draining, *self._drain()]:
            if isinstance(command, Ticket):
                command.post(stopped)
            elif isinstance(command, Call):
                command.settle(None, stopped)

    def _drain(self) -> Iterator[Command]:
        while not self._inbox.empty():
            yield self._inbox.get()

    def _take(self, model: Model) -> bool:
        """Take all commands, blocking only when there is nothing to do. False when told to stop."""
        going_on = True
        for command in (self._inbox.get(),) if self._is_idle() else self._drain():
            match command:
                case Stop():
                    going_on = False
                case Call(deadline=float()) if self._draining is None:
                    self._draining = command
                case Call(fn):
                    self._answer(command, fn, model)
                case Answer(ticket, found) if ticket in self._running and self._running[ticket].is_waiting:
                    self._go_on(model, ticket, found)
                case Ticket():
                    self._waiting.append(command)
        return going_on

    def _go_on(self, model: Model, ticket: Ticket, found: Found | None) -> None:
        try:
            items = self._running[ticket].answer(found)
        except Exception as error:  # a text that has no tokens
            self._drop(model, ticket, error)
        else:
            self._pass_on(model, ticket, items)

    def _is_idle(self) -> bool:
        at_rest = all(generation.is_waiting for generation in self._running.values())
        return at_rest and not any(map(self._has_place, self._waiting))

    def _has_place(self, ticket: Ticket) -> bool:
        """Whether a request may begin. Background ones have places of their own, and never take another's."""
        if self._draining is not None:
            return False
        same = [one for one in self._running if _kind(one) == _kind(ticket)]
        return len(same) < (1 if _kind(ticket) == (BACKGROUND, False) else self._max_batch)

    def _answer(self, call: Call, fn: Callable[[Model], Any], model: Model) -> None:
        try:
            result = fn(model)
        except Exception as error:  # the caller's own function: its error is the caller's
            call.settle(None, error)
        except BaseException:  # it ends the thread; the loop must not meet it
            call.settle(None, EngineStopped("The model has stopped before this was done."))
            raise
        else:
            call.settle(result, None)

    def _drain_out(self, model: Model) -> None:
        """Do what waits for the others to end, once they have, or have had their time."""
        call = self._draining
        if call is None or call.deadline is None:
            return
        if not self._running or time.monotonic() > call.deadline:
            self._draining = None
            self._answer(call, call.fn, model)

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
        # Stable: first come, first served, but a person before background work.
        for ticket in sorted(self._waiting, key=lambda ticket: ticket.request.priority):
            if not self._has_place(ticket):
                continue
            # A ticket leaves the line when it is told or runs: a crash in between must find it.
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
            brought = model.step([row for _, row in rows])
        except Exception as error:
            if len(rows) > 1:  # find out whose fault it is
                for index, row in rows:
                    self._step_alone(model, tickets[index], row)
                return
            self._drop(model, tickets[rows[0][0]], error)
            return
        for (index, row), got in zip(rows, brought, strict=True):
            self._deliver(model, tickets[index], row, got)
        self.stats.steps += 1

    def _step_alone(self, model: Model, ticket: Ticket, row: Row) -> None:
        try:
            (got,) = model.step([row])
        except Exception as error:
            self._drop(model, ticket, error)
        else:
            self._deliver(model, ticket, row, got)

    def _deliver(self, model: Model, ticket: Ticket, row: Row, got: int | Vector | None) -> None:
        self._pass_on(model, ticket, self._running[ticket].advance(row, got, time.monotonic()))

    def _pass_on(self, model: Model, ticket: Ticket, items: Sequence[Item | Ask]) -> None:
        generation = self._running[ticket]
        if generation.reason is not None:
            self._finish(model, ticket, [*items, *generation.finish(generation.reason, time.monotonic())])
        elif items:
            ticket.post(items)

    def _finish(self, model: Model, ticket: Ticket, items: Sequence[Item | Ask]) -> None:
        usage = self._running[ticket].usage
        self.stats.finished += 1
        self.stats.prompt_tokens += usage.prompt
        self.stats.cached_tokens += usage.cached
        self.stats.new_tokens += usage.completion
        self._end(model, ticket)
        ticket.post(items)

    def _drop(self, model: Model, ticket: Ticket, error: Exception) -> None:
        log.error("a request has failed", exc_info=error)
        self.stats.failed += 1
        model.release(self._running[ticket].running, None)
        del self._running[ticket]
        ticket.post(error)

    def _end(self, model: Model, ticket: Ticket) -> None:
        # Released first: if that crashes the thread, the ticket is still there to be told.
        model.release(self._running[ticket].running, ticket.request.conversation)
        self.stats.kv_bytes = model.kv_bytes
        del self._running[ticket]


def _kind(ticket: Ticket) -> tuple[int, bool]:
    return ticket.request.priority, ticket.request.base
