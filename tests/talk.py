"""Chats over a real database, with a writer in the hands of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qqmem.chat import Chats, Event, Reply
from qqmem.db import Database
from qqmem.engine.prompt import Prompts
from qqmem.engine.types import Tokenizer
from qqmem.history import History
from qqmem.records import Incoming, Message, Sender, Turn
from qqmem.settings import Chat, Generation
from tests.fakes import ScriptedWriter
from tests.fakes_engine import CharTokenizer

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
PRIVATE, GROUP = "private:7", "group:7"


class Windows:
    """Stands for the clock of chat.merge_window: a window is open until the test closes it."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[float] = asyncio.Queue()
        self._end = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.opened.put_nowait(seconds)
        await self._end.wait()

    def close(self) -> None:
        """Close the windows that are open."""
        self._end.set()
        self._end = asyncio.Event()


@dataclass
class Talk:
    """events: all that was published."""

    chats: Chats
    history: History
    writer: ScriptedWriter
    events: list[Event]

    async def say(self, text: str, conversation: str = PRIVATE, qq: str = "7", **more: Any) -> Reply:
        sender = Sender(qq, f"用户{qq}")
        return await self.chats.send(Incoming(conversation, sender, text, NOW, **more))

    async def texts(self, conversation: str = PRIVATE) -> list[str]:
        """What was said; the words of the bot behind a `>`."""
        stored = await self.history.messages(conversation, 1000)
        return [(">" if message.role == "assistant" else "") + message.text for message in stored]

    async def message(self, text: str, conversation: str = PRIVATE) -> Message:
        """The stored message with this text."""
        (found,) = [one for one in await self.history.messages(conversation, 1000) if one.text == text]
        return found

    async def turns(self, conversation: str = PRIVATE) -> list[Turn]:
        return await self.history.turns(conversation, range(1, 1000))

    async def outcomes(self, conversation: str = PRIVATE) -> list[str]:
        return [turn.end.outcome for turn in await self.turns(conversation)]


@asynccontextmanager
async def open_talk(
    folder: Path,
    *,
    script: Callable[[str], str] | None = None,
    writer: ScriptedWriter | None = None,
    tokenizer: Callable[[], Awaitable[Tokenizer]] | None = None,
    thinks: bool = False,
    chat: dict[str, Any] | None = None,
    generation: Generation | None = None,
    history: Callable[[Database], History] = History,
    drain_seconds: float = 0.0,
    **options: Any,
) -> AsyncIterator[Talk]:
    """chat: settings of its own; without any, a turn begins at once. options: of Chats."""

    async def ready() -> Tokenizer:
        return CharTokenizer(thinks=thinks)

    settings = Chat(**{"merge_window": 0.0, **(chat or {})})
    prompts = await asyncio.to_thread(Prompts.load, settings.language, settings.prompts, settings.prompt_order)
    writer, events = writer or ScriptedWriter(script), list[Event]()
    async with Database.open(folder) as db:
        stored = history(db)
        chats = Chats(
            stored,
            writer,
            tokenizer or ready,
            prompts,
            settings,
            generation or Generation(),
            drain_seconds=drain_seconds,
            publish=events.append,
            **options,
        )
        async with chats:
            yield Talk(chats, stored, writer, events)
