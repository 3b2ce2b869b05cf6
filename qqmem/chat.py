"""All conversations: messages go in, replies come out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Self

from qqmem.actor import Actor, Shared
from qqmem.commands import Commands
from qqmem.deliveries import MAX_AGE, Deliveries
from qqmem.engine.prompt import Prompts
from qqmem.engine.types import Tokenizer
from qqmem.errors import EngineStopped
from qqmem.events import Event, Recalled, Reply, Token, TurnEnded, TurnStarted
from qqmem.history import History
from qqmem.manners import Manners
from qqmem.recollection import Recollections
from qqmem.records import Incoming, Message
from qqmem.remember import Remember
from qqmem.settings import Chat, Generation
from qqmem.turn import Author, Writer

__all__ = ["Chats", "Event", "Recalled", "Reply", "Token", "TurnEnded", "TurnStarted", "Writer"]


class Chats:
    """All conversations. `async with` opens them; leaving drains: no new turns, and running ones get some seconds.

    tokenizer: may have to wait for the model; messages are stored meanwhile, turns wait.
    drain_seconds: how long running turns may go on at the end, before they are cancelled and stored.
    publish: is told every event of every conversation, on the event loop; must be quick and must not raise.
    heard: as publish, of every message of a person, once it is stored.
    recollections, remember, commands: what there is of memory; without them nothing is recalled or remembered.
    deliveries: what bridges are to send; without them there are no bridges.
    chance: draws from [0, 1), for chat.reply_probability. sleep: waits for chat.merge_window.
    """

    def __init__(
        self,
        history: History,
        writer: Writer,
        tokenizer: Callable[[], Awaitable[Tokenizer]],
        prompts: Prompts,
        chat: Chat,
        generation: Generation,
        *,
        drain_seconds: float = 10.0,
        publish: Callable[[Event], None] = lambda _: None,
        heard: Callable[[Message], None] = lambda _: None,
        recollections: Recollections | None = None,
        remember: Remember | None = None,
        commands: Commands | None = None,
        deliveries: Deliveries | None = None,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        author = Author(writer, tokenizer, prompts, chat, generation, recollections)
        is_muted = deliveries.is_muted if deliveries is not None else lambda _: False
        manners = Manners(chat, lambda: author.policy, chance, is_muted)
        self._shared = Shared(history, author, chat, publish, manners, sleep, remember, commands, heard, deliveries)
        self._drain_seconds = drain_seconds
        self._is_closed = False

    async def __aenter__(self) -> Self:
        self._shared.author.start()
        if self._shared.deliveries is not None:
            owed = sorted(await self._shared.history.owed(datetime.now(UTC) - MAX_AGE), key=attrgetter("conversation"))
            for conversation, messages in groupby(owed, attrgetter("conversation")):
                actor = self._actor(conversation)
                actor.post(partial(actor.resume, list(messages)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_closed = True
        actors = list(self._shared.actors.values())
        for actor in actors:
            actor.post(actor.drain)
        await _wait(actors, self._drain_seconds)
        for actor in actors:
            actor.post(actor.cancel)
        await _wait(actors, None)
        await self._shared.author.stop()

    async def send(self, message: Incoming) -> Reply:
        """Store a message; returns once it is stored. Raises what storing raises, or EngineStopped when closing.

        A message that is not answered gets a Reply that has already ended: outcome "no_reply", turn None. So does
        a duplicate, of which nothing is stored.
        """
        reply, stored = self._post(message)
        try:
            await asyncio.shield(stored)
        except asyncio.CancelledError:
            await reply.aclose()
            raise
        return reply

    async def bring(self, message: Incoming) -> None:
        """As send, for a bridge: the message is stored and answered even if nobody waits any more."""
        _, stored = self._post(message)
        await asyncio.shield(stored)

    def _post(self, message: Incoming) -> tuple[Reply, asyncio.Future[None]]:
        actor = self._actor(message.conversation)
        reply = Reply(lambda reply: actor.post(partial(actor.leave, reply)))
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        actor.post(partial(actor.receive, message, reply, stored), stored)
        return reply, stored

    async def cancel(self, conversation: str) -> bool:
        """Stop the reply being written, or else about to be: outcome "cancelled". False if there is none."""
        actor = self._shared.actors.get(conversation)
        return actor is not None and await actor.ask(actor.cancel)

    async def withdraw(self, conversation: str, message_id: str) -> bool:
        """Take back a message, named by its platform id. False if it is unknown.

        A turn that answers it starts anew without it, or is cancelled if it answers nothing else.
        """
        actor = self._actor(conversation)
        return await actor.ask(partial(actor.withdraw, message_id))

    async def delete(self, conversation: str) -> None:
        """Stop the reply being written, and delete all that was said. Raises NotFound."""
        actor = self._actor(conversation)
        await actor.ask(actor.delete)

    def _actor(self, conversation: str) -> Actor:
        if self._is_closed:
            raise EngineStopped("The service is shutting down; try again when it is back.")
        actors = self._shared.actors
        if conversation not in actors:
            actors[conversation] = Actor(conversation, self._shared)
        return actors[conversation]


async def _wait(actors: Sequence[Actor], seconds: float | None) -> None:
    if actors:
        await asyncio.wait([actor.task for actor in actors], timeout=seconds)
