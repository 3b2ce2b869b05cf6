"""One conversation: it stores what comes in, and decides whether and when the bot answers, or is interrupted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from qqmem.commands import Command, Commands
from qqmem.deliveries import Deliveries
from qqmem.errors import EngineStopped, ModelError, QqmemError
from qqmem.events import Event, Reply, TurnEnded, TurnStarted
from qqmem.history import History
from qqmem.manners import Manners
from qqmem.records import Incoming, Message, Outcome, TurnEnd
from qqmem.remember import Remember
from qqmem.settings import Chat
from qqmem.turn import Author, Turn, explain

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class _Batch:
    """Messages that want an answer and wait for their turn. reply: of the newest one's sender."""

    messages: list[Message]
    reply: Reply | None
    window: asyncio.Task[None]
    is_due: bool = False


@dataclass(slots=True)
class _Running:
    """A turn that is not stored yet. task: ends as soon as the turn is written. reply: of the newest sender."""

    turn: Turn
    reply: Reply | None
    task: asyncio.Task[TurnEnd] = field(init=False)


@dataclass(frozen=True, slots=True)
class _Job:
    """A step of an actor, and who waits for its result."""

    step: Callable[[], Awaitable[object]]
    done: asyncio.Future[Any] | None


@dataclass(frozen=True, slots=True)
class Shared:
    """What all actors work with. anchors: where the prompt begins, for histories that have outgrown it."""

    history: History
    author: Author
    chat: Chat
    publish: Callable[[Event], None]
    manners: Manners
    sleep: Callable[[float], Awaitable[None]]
    remember: Remember | None = None
    commands: Commands | None = None
    heard: Callable[[Message], None] = lambda _: None
    deliveries: Deliveries | None = None
    actors: dict[str, Actor] = field(default_factory=dict)
    anchors: dict[str, int] = field(default_factory=dict)


class Actor:
    """One conversation, while there is something to do: its steps run one at a time, in the order they came."""

    def __init__(self, conversation: str, shared: Shared) -> None:
        self._id = conversation
        self._shared = shared
        self._inbox: asyncio.Queue[_Job] = asyncio.Queue()
        self._batch: _Batch | None = None
        self._running: _Running | None = None
        self._is_draining = False
        self._name = ""
        self.task = asyncio.create_task(self._run())

    def post(self, step: Callable[[], Awaitable[object]], done: asyncio.Future[Any] | None = None) -> None:
        """Queue a step. done: gets its result or error; an error that nobody waits for fails the conversation."""
        self._inbox.put_nowait(_Job(step, done))

    async def ask(self, step: Callable[[], Awaitable[T]]) -> T:
        """Queue a step and wait for its result; it is done even if the waiting is cancelled."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.post(step, done)
        return await asyncio.shield(done)

    async def _run(self) -> None:
        try:
            while self._batch or self._running or not self._inbox.empty():
                await self._do(await self._inbox.get())
        finally:
            del self._shared.actors[self._id]

    async def _do(self, job: _Job) -> None:
        try:
            result = await job.step()
        except Exception as error:  # the database, or a bug: whoever waits is told, the conversation goes on
            if job.done is None or job.done.done():
                await self._fail(error)
            else:
                job.done.set_exception(error)
        else:
            if job.done is not None and not job.done.done():
                job.done.set_result(result)

    # ---- steps that others ask for -------------------------------------------------------------------------------

    async def receive(self, incoming: Incoming, reply: Reply, stored: asyncio.Future[None]) -> None:
        """Store a message, then see whether it is answered and what it interrupts. A command is obeyed, not stored."""
        commands, manners = self._shared.commands, self._shared.manners
        if commands is not None and not incoming.context_only and (command := commands.parse(incoming.text)):
            reply.message = incoming.unstored()
            await self._obey(command, commands, incoming, reply, stored)
            return
        addressed = manners.is_addressed(incoming) or await self._is_quoted(incoming.reply_to)
        wanted = manners.wants_answer(incoming, addressed=addressed)
        message, is_new = await self._shared.history.add(incoming, owed=wanted and bool(incoming.bridge))
        reply.message = message
        stored.set_result(None)
        if is_new:
            self._shared.heard(message)
        if is_new and self._shared.remember is not None:
            self._shared.remember.heard(message)
        self._name = incoming.name or self._name
        message = replace(message, addressed=addressed)
        if not is_new or not wanted:
            self._dismiss(reply, "no_reply")
        elif self._is_draining:
            self._dismiss(reply, "cancelled")
        else:
            await self._admit(message, reply)

    async def _obey(
        self, command: Command, commands: Commands, incoming: Incoming, reply: Reply, stored: asyncio.Future[None]
    ) -> None:
        """A command of a bridge is over once its answer is handed over, and is not done again."""
        deliveries = self._shared.deliveries if incoming.bridge else None
        if deliveries is None:
            stored.set_result(None)
        elif incoming.seq <= await deliveries.seq(incoming.bridge):
            stored.set_result(None)
            self._dismiss(reply, "no_reply")
            return
        text = await commands.run(command, self._id, incoming.sender, self._start_over)
        if deliveries is not None:
            await deliveries.answer(incoming, text)
            stored.set_result(None)
        self._dismiss(reply, "replied", text=text)

    async def _start_over(self) -> None:
        """What was said before is shown no more, but for what is still to be answered."""
        batch, running = self._batch, self._running
        waiting = [*(batch.messages if batch else ()), *(running.turn.messages if running else ())]
        await self._shared.history.start_over(self._id, min(_ids(waiting), default=None))

    async def _is_quoted(self, message_id: str | None) -> bool:
        """Whether the bot has said what is quoted here."""
        quoted = await self._shared.history.find(self._id, message_id) if message_id else None
        return quoted is not None and quoted.role == "assistant"

    async def resume(self, messages: Sequence[Message]) -> None:
        """Answer what was still to be answered when the service ended."""
        if not self._shared.manners.is_muted(self._id):
            self._join(messages, None)

    async def leave(self, reply: Reply) -> None:
        """Nobody reads this reply any more."""
        running = self._writing()
        if running is not None and running.reply is reply:
            await self._stop(running, "cancelled")
        elif self._batch is not None and self._batch.reply is reply:
            await self._drop("cancelled")

    async def cancel(self) -> bool:
        """Stop the turn being written, or else the one about to begin. False if there is neither."""
        if self._shared.deliveries is not None and not self._is_draining:
            await self._shared.deliveries.settle(self._id)
        running = self._writing()
        if running is None:
            return await self._drop("cancelled")
        await self._stop(running, "cancelled")
        return True

    async def withdraw(self, message_id: str) -> bool:
        """Take a message back. False if it is unknown."""
        message = await self._shared.history.find(self._id, message_id)
        if message is None:
            return False
        if self._shared.remember is not None:  # first: a crash in between must not leave its memories
            await self._shared.remember.withdrawn(message)
        await self._shared.history.withdraw(self._id, message_id)
        running = self._writing()
        if running is not None and message.id in _ids(running.turn.messages):
            await self._write_without(message, running)
        elif self._batch is not None:
            self._batch.messages = [one for one in self._batch.messages if one.id != message.id]
            if not self._batch.messages:
                await self._drop("cancelled")
        return True

    async def delete(self) -> None:
        """Delete all that was said. Raises NotFound."""
        running = self._writing()
        if running is not None:
            await self._stop(running, "cancelled")
        await self._drop("cancelled")
        if self._shared.remember is not None:
            await self._shared.remember.deleted(self._id)
        await self._shared.history.delete(self._id)
        self._shared.anchors.pop(self._id, None)

    async def drain(self) -> None:
        """Begin no more turns."""
        self._is_draining = True
        await self._drop("cancelled")

    # ---- the life of a turn --------------------------------------------------------------------------------------

    async def _admit(self, message: Message, reply: Reply) -> None:
        """Let a message wait for its turn; one that it interrupts is taken along."""
        running = self._writing()
        if running is None or not self._shared.manners.interrupts(message, running.turn.messages):
            self._join([message], reply)
        else:
            self._join([*running.turn.messages, message], reply)
            await self._stop(running, "superseded")

    async def _write_without(self, message: Message, running: _Running) -> None:
        """Stop a turn, and begin it anew for the other messages that it answers, if there are any."""
        rest = [one for one in running.turn.messages if one.id != message.id]
        if rest:
            # Whoever waits goes on waiting, for the answer to the rest.
            reply, running.reply = running.reply, None
            self._join(rest, reply)
        await self._stop(running, "superseded" if rest else "cancelled")

    def _join(self, messages: Sequence[Message], reply: Reply | None) -> None:
        """Add messages to those that wait; who sent the newest of all goes on waiting for the reply."""
        batch = self._batch
        if batch is None:
            window = asyncio.create_task(self._wait())
            self._batch = _Batch(messages=list(messages), reply=reply, window=window)
            return
        is_newer = messages[-1].id > batch.messages[-1].id
        batch.messages = sorted([*batch.messages, *messages], key=attrgetter("id"))
        older, batch.reply = (batch.reply, reply) if is_newer else (reply, batch.reply)
        self._dismiss(older, "superseded")

    async def _wait(self) -> None:
        await self._shared.sleep(self._shared.chat.merge_window)
        assert self._batch is not None, "a window is closed with its batch"
        self._batch.is_due = True
        # At the end of the inbox: what has come meanwhile belongs to the same turn.
        self.post(self._begin)

    async def _begin(self) -> None:
        batch = self._batch
        if batch is None or not batch.is_due or self._running is not None:
            return
        anchor = self._shared.anchors.get(self._id, 0)
        limit = self._shared.chat.history_messages + 1  # one more shows that there are more
        history = await self._shared.history.recent(self._id, limit, since=anchor)
        number = await self._shared.history.begin_turn(self._id, _ids(batch.messages))
        turn = Turn(number, self._id, tuple(batch.messages), anchor)
        running = self._start(turn, batch.reply, history)
        self._batch, self._running = None, running
        named = tuple(message.message_id for message in turn.messages if message.message_id)
        self._tell(running, TurnStarted(number, self._id, _ids(turn.messages), named))

    def _start(self, turn: Turn, reply: Reply | None, history: Sequence[Message]) -> _Running:
        running = _Running(turn, reply)
        writing = self._shared.author.write(turn, history, self._name, partial(self._tell, running))
        running.task = asyncio.create_task(writing)
        running.task.add_done_callback(lambda _: self.post(self._finish))
        return running

    async def _finish(self) -> None:
        """Store the turn that has been written, then tell."""
        running = self._running
        if running is None or not running.task.done():  # it was stopped before this step came
            return
        error = running.task.exception()
        if error is not None and not isinstance(error, QqmemError):
            log.error("%s turn %d: a bug", self._id, running.turn.id, exc_info=error)
        end = running.turn.failed(error) if error is not None else running.task.result()
        await self._store(running.turn, end)
        self._running = None
        self._tell(running, running.turn.ended(end))

    async def _stop(self, running: _Running, outcome: Outcome) -> None:
        """End a turn that is still being written. Who waits is told at once, before the model and the disk."""
        self._running = None
        end = running.turn.end(outcome)
        self._tell(running, running.turn.ended(end))
        running.task.cancel()
        await asyncio.wait([running.task])
        await self._store(running.turn, end)

    async def _store(self, turn: Turn, end: TurnEnd) -> None:
        self.post(self._begin)  # comes after this step, even if that fails
        stopped = end.outcome == "cancelled" and self._is_draining
        again = stopped or end.outcome == "superseded" or turn.code in (EngineStopped.code, ModelError.code)
        await self._shared.history.end_turn(turn.id, end, again=again)
        await self._shared.author.wrote(turn)
        log.info("%s turn %d: %s", self._id, turn.id, end.outcome)
        if turn.anchor:
            self._shared.anchors[self._id] = turn.anchor

    async def _drop(self, outcome: Outcome, error: Exception | None = None) -> bool:
        """Let go of what waits for its turn. False if nothing does."""
        batch, self._batch = self._batch, None
        if batch is None:
            return False
        self._dismiss(batch.reply, outcome, error)
        batch.window.cancel()
        await asyncio.wait([batch.window])
        return True

    async def _fail(self, error: Exception) -> None:
        """End all that runs or waits here, because of an error that is not the model's."""
        log.error("%s: a turn could not be kept", self._id, exc_info=error)
        running, self._running = self._running, None
        if running is not None:
            self._tell(running, running.turn.ended(running.turn.failed(error)))
            running.task.cancel()
            await asyncio.wait([running.task])
        await self._drop("failed", error)

    def _writing(self) -> _Running | None:
        """The turn that can still be stopped: one that is written to its end keeps its outcome."""
        running = self._running
        return None if running is None or running.task.done() else running

    def _tell(self, running: _Running, event: Event) -> None:
        self._shared.publish(event)
        if running.reply is not None:
            running.reply.put(event)

    def _dismiss(
        self, reply: Reply | None, outcome: Outcome, error: Exception | None = None, *, text: str = ""
    ) -> None:
        """Tell a sender that no turn comes for it, or none of its own. text: the answer to a command."""
        if reply is not None:
            code, sentence = explain(error) if error is not None else ("", "")
            event = TurnEnded(None, self._id, outcome, text, error=sentence, code=code)
            self._shared.publish(event)
            reply.put(event)


def _ids(messages: Sequence[Message]) -> tuple[int, ...]:
    return tuple(message.id for message in messages)
