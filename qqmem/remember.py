"""When something is remembered: messages at once, facts when a conversation rests or has grown, vectors in between.

How far a conversation has been remembered is stored with the memories (Point), so what a crash breaks off is done
again, and what was said before this program could remember is caught up with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Self

from qqmem.engine.prompt import Prompts, clean_name
from qqmem.errors import InvalidRequest, PromptTooLong, QqmemError
from qqmem.history import History
from qqmem.memory.draw import Facts
from qqmem.memory.extract import Ask, Source, fitting
from qqmem.memory.memories import Memories
from qqmem.memory.pieces import pieces, says_something, words_of
from qqmem.memory.scope import said_in
from qqmem.memory.store import Point
from qqmem.memory.types import Memory, NewMemory
from qqmem.records import Message
from qqmem.settings import Memory as MemorySettings

log = logging.getLogger(__name__)

ACTOR = "message"

PAGE = 50
"""Messages that are indexed in one transaction; their keys are made in one go."""

_MOST_SHOWN, _MOST_CHARS = 20, 1_200
"""Messages and characters from which facts are drawn in one go; a small model loses sight of more."""

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 600.0
"""Seconds to wait after a failure; doubled with each one that follows."""


class _Waiting:
    """Conversations for which something is to be done, each once, first come, first served."""

    def __init__(self) -> None:
        self._waiting: dict[str, None] = {}
        self._some, self._none = asyncio.Event(), asyncio.Event()
        self._none.set()

    def put(self, conversation: str) -> None:
        self._waiting.setdefault(conversation)
        self._some.set()
        self._none.clear()

    async def get(self) -> str:
        """The first one; it waits no longer, but `done` is to be told."""
        await self._some.wait()
        first = next(iter(self._waiting))
        del self._waiting[first]
        if not self._waiting:
            self._some.clear()
        return first

    def done(self) -> None:
        if not self._waiting:
            self._none.set()

    async def join(self) -> None:
        """Wait until nothing is left to be done."""
        await self._none.wait()


class Remember:
    """Remembers what is said. `async with` starts its work; leaving ends it, whatever it is at.

    ask: asks the model at low priority. sleep: the clock of rests and pauses.
    """

    def __init__(
        self,
        history: History,
        memories: Memories,
        ask: Ask,
        prompts: Prompts,
        settings: MemorySettings,
        bot_name: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._history = history
        self._memories = memories
        self._facts = Facts(memories, ask, prompts.phrase("extract", bot_name=bot_name), prompts.phrase("compare"))
        self._settings = settings
        self._sleep = sleep
        self._heard, self._due = _Waiting(), _Waiting()
        self._indexing, self._drawing = asyncio.Lock(), asyncio.Lock()
        self._rests: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._find_unheard()
        works = self._work(self._heard, self._index), self._work(self._due, self._draw_some), self._keep_encoding()
        self._tasks = [asyncio.create_task(work) for work in works]
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._tasks, *self._rests.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def heard(self, message: Message) -> None:
        """A message of a user has been stored."""
        self._heard.put(message.conversation)

    async def withdrawn(self, message: Message) -> None:
        """A message was taken back, and with it what is remembered of it."""
        actor = f"user:{message.sender.id}"
        await self._memories.forget_messages(message.conversation, [message.id], actor, "withdrawn")

    async def deleted(self, conversation: str) -> None:
        """A conversation is about to be deleted, and with it what is remembered of it."""
        await self._memories.forget_conversation(conversation, "api")

    async def settle(self) -> None:
        """Wait until all that was heard is indexed, and no vector is missing that could be made."""
        await self._heard.join()
        while await self._memories.encode_missing():
            pass

    async def extract(self, conversation: str) -> list[Memory]:
        """Draw facts from all that is new in a conversation, now. Raises EngineError, DatabaseError."""
        while await self._index(conversation):
            pass
        drawn = list[Memory]()
        async with self._drawing:
            while (found := await self._draw(conversation)) is not None:
                drawn += found
        return drawn

    # ---- work in the background ----------------------------------------------------------------------------------

    async def _find_unheard(self) -> None:
        """Hear of the conversations in which something was said that is not remembered."""
        points = await self._memories.store.points()
        for conversation, last in (await self._history.last_ids()).items():
            point = points.get(conversation, Point(conversation))
            if last > min(point.indexed_to, point.extracted_to):
                self._heard.put(conversation)

    async def _work(self, waiting: _Waiting, step: Callable[[str], Awaitable[bool]]) -> None:
        """Do the step for each that waits, as long as it returns that there is more; try again what fails."""
        failing, pause = set[str](), _FIRST_PAUSE
        while True:
            conversation = await waiting.get()
            try:
                if await step(conversation):
                    waiting.put(conversation)
            except Exception as error:  # the engine, the database, or a bug: whatever it is, nothing may be lost
                if conversation not in failing:
                    _report(conversation, error)
                failing.add(conversation)
                await self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                # Behind those that came meanwhile, which may fare better.
                waiting.put(conversation)
            else:
                failing.discard(conversation)
                pause = _FIRST_PAUSE
            waiting.done()

    async def _keep_encoding(self) -> None:
        while True:
            await self._memories.changed.wait()
            self._memories.changed.clear()
            try:
                while await self._memories.encode_missing():
                    pass
            except Exception as error:  # the database, or a bug
                _report("vectors", error)
                await self._sleep(_FIRST_PAUSE)
                self._memories.changed.set()

    # ---- messages ------------------------------------------------------------------------------------------------

    async def _index(self, conversation: str) -> bool:
        """Remember the next messages as they are. Returns whether there may be more."""
        async with self._indexing:
            point = await self._memories.store.point(conversation)
            messages = await self._history.said_after(conversation, point.indexed_to, PAGE)
            if messages:
                muted = await self._memories.store.choices("muted")
                new = [one for message in messages for one in _memories_of(message, muted)]
                point = replace(point, indexed_to=messages[-1].id)
                await self._memories.add(new, ACTOR, point=point)
        await self._await_end(point)
        return len(messages) == PAGE

    async def _await_end(self, point: Point) -> None:
        """Draw facts soon if the conversation has grown enough, else when it has rested."""
        conversation, enough = point.conversation, self._settings.extract_messages
        num_new = len(await self._unread(point, enough))
        if rest := self._rests.pop(conversation, None):
            rest.cancel()
        if num_new == enough:
            self._due.put(conversation)
        elif num_new:
            self._rests[conversation] = asyncio.create_task(self._rest(conversation))

    async def _rest(self, conversation: str) -> None:
        await self._sleep(self._settings.extract_idle)
        del self._rests[conversation]
        self._due.put(conversation)

    # ---- facts ---------------------------------------------------------------------------------------------------

    async def _draw_some(self, conversation: str) -> bool:
        """Draw facts from the next messages, others taking their turns between. Returns whether there may be more."""
        async with self._drawing:
            return await self._draw(conversation) is not None

    async def _draw(self, conversation: str) -> list[Memory] | None:
        """Draw facts from the next messages; None if there are none."""
        point = await self._memories.store.point(conversation)
        messages = await self._unread(point, _MOST_SHOWN)
        if not messages:
            return None
        sources = await self._sources(conversation, messages)
        fit = fitting(sources, _MOST_CHARS)
        last = messages[-1].id if len(fit) == len(sources) else fit[-1].id
        return await self._draw_from(fit, Point(conversation, extracted_to=last))

    async def _unread(self, point: Point, limit: int) -> list[Message]:
        """The next messages to draw facts from: those that have come to the index."""
        messages = await self._history.said_after(point.conversation, point.extracted_to, limit)
        return [message for message in messages if message.id <= point.indexed_to]

    async def _draw_from(self, sources: Sequence[Source], point: Point) -> list[Memory]:
        """Draw facts from these, or from half of them if the model cannot read so much; a single one is passed over."""
        try:
            return await self._facts.draw(sources, point)
        except PromptTooLong:
            half = sources[: len(sources) // 2]
            to = half[-1].id if half else point.extracted_to
            return await self._draw_from(half, Point(point.conversation, extracted_to=to))

    async def _sources(self, conversation: str, messages: Sequence[Message]) -> list[Source]:
        """Those of the messages that are remembered: what was said while one was muted stays out, now and later."""
        muted = await self._memories.store.choices("muted")
        found = await self._memories.store.by_source(conversation, [message.id for message in messages])
        known = {id for memory in found if memory.kind == "message" for id in memory.sources}
        return [_source(one) for one in messages if one.id in known and not _is_muted(one, muted)]


def _report(conversation: str, error: Exception) -> None:
    if isinstance(error, QqmemError):
        log.warning("%s: remembering waits: %s", conversation, error)
    else:
        log.error("%s: remembering waits: a bug", conversation, exc_info=error)


def _memories_of(message: Message, muted: frozenset[str]) -> Iterator[NewMemory]:
    """A message as memories, in order; none if nothing was said, or nothing is to be remembered."""
    text = words_of(message.text)
    if not says_something(text) or _is_muted(message, muted):
        return
    # An anonymous speaker has an id that is no QQ number, and nobody to whom the memory could belong.
    with suppress(InvalidRequest):
        scope = str(said_in(message.conversation, message.sender.id))
        for piece in pieces(text):
            yield NewMemory(
                kind="message",
                scope=scope,
                text=piece,
                valid_from=message.time,
                subject_id=message.sender.id,
                speaker_id=message.sender.id,
                speaker_name=_name(message),
                conversation=message.conversation,
                sources=(message.id,),
            )


def _source(message: Message) -> Source:
    return Source(message.id, message.sender.id, _name(message), words_of(message.text), message.time)


def _name(message: Message) -> str:
    return clean_name(message.sender.shown) or message.sender.id


def _is_muted(message: Message, muted: frozenset[str]) -> bool:
    return f"user:{message.sender.id}" in muted or message.conversation in muted
