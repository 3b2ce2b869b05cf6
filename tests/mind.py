"""A bot with a memory: real database, store, index, engine thread; a model that recites, and an encoder of letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qqmem.chat import Chats, Event, Recalled, Reply
from qqmem.commands import Commands
from qqmem.db import Database
from qqmem.engine.prompt import Prompts
from qqmem.engine.types import Tokenizer
from qqmem.engine.worker import Engine
from qqmem.events import TurnEnded
from qqmem.hidden import HiddenEncoder
from qqmem.history import History
from qqmem.memory.extract import Answer
from qqmem.memory.memories import Memories
from qqmem.memory.types import Memory, NewMemory
from qqmem.recollection import Recollections
from qqmem.records import Incoming, Recall, Sender
from qqmem.remember import Remember
from qqmem.settings import Chat, Generation, Memory as MemorySettings, Recall as RecallSettings
from tests.fakes_engine import CharTokenizer, ScriptedModel
from tests.memory.encoders import Letters

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
NAMES = {"1": "小明", "2": "小红", "3": "阿强"}


@dataclass
class Mind:
    """events: all that was published. model: the one that recites."""

    chats: Chats
    history: History
    memories: Memories
    remember: Remember
    engine: Engine
    model: ScriptedModel
    events: list[Event] = field(default_factory=list)

    async def say(self, text: str, conversation: str = "private:1", qq: str = "1", **more: Any) -> Reply:
        sender = Sender(qq, NAMES[qq], role=more.pop("role", ""))
        return await self.chats.send(Incoming(conversation, sender, text, more.pop("at", NOW), **more))

    async def ask(self, text: str, conversation: str = "private:1", qq: str = "1") -> TurnEnded:
        return await (await self.say(text, conversation, qq, addressed=True)).end()

    async def told(self, text: str, scope: str = "user:1", **more: Any) -> Memory:
        """Something that is remembered already."""
        given: dict[str, Any] = {"kind": "fact", "subject_id": "1", "speaker_id": "1", "speaker_name": "小明"}
        (memory,) = await self.memories.add([NewMemory(scope=scope, text=text, valid_from=NOW, **given | more)], "test")
        return memory

    @property
    def prompt(self) -> str:
        """Of the last turn."""
        return [prompt for prompt in self.model.prompts if prompt.startswith("⟨system⟩")][-1]

    @property
    def recalls(self) -> list[Recall]:
        return [event.recall for event in self.events if isinstance(event, Recalled)]

    @property
    def chosen(self) -> list[int | None]:
        return [recall.memory for recall in self.recalls]


@asynccontextmanager
async def open_mind(
    folder: Path,
    script: Callable[[str], str] = lambda prompt: "好的。",
    *,
    thinks: bool = False,
    chat: dict[str, Any] | None = None,
    values: bool = True,
    by_heart: str = "",
    release: str = "",
    **recall: Any,
) -> AsyncIterator[Mind]:
    """recall: settings of the recall. values: whether memories get vectors of the model."""
    model: list[ScriptedModel] = []

    def load() -> ScriptedModel:
        model.append(ScriptedModel(script, by_heart, CharTokenizer(thinks=thinks)))
        return model[0]

    async def tokenizer() -> Tokenizer:
        return (await engine.ready()).tokenizer

    async def draws_nothing(system: str, user: str) -> Answer:
        return Answer("无", complete=True)

    settings, events = Chat(**{"merge_window": 0.0, **(chat or {})}), list[Event]()
    prompts = await asyncio.to_thread(Prompts.load, "zh", None, settings.prompt_order)
    engine = Engine(load)
    async with (
        Database.open(folder) as db,
        engine,
        Memories.open(db, Letters(), folder / "index") as memories,
    ):
        history = History(db)
        await engine.ready()
        if values:
            await memories.attach_values(HiddenEncoder(engine, await tokenizer(), prompts, "fake", 2))
        remember = Remember(history, memories, draws_nothing, prompts, MemorySettings(), "小忆")
        chats = Chats(
            history,
            engine,
            tokenizer,
            prompts,
            settings,
            Generation(),
            publish=events.append,
            recollections=Recollections(memories, history, RecallSettings(**recall), release=release),
            remember=remember,
            commands=await asyncio.to_thread(Commands, memories, "zh"),
        )
        async with remember, chats:
            yield Mind(chats, history, memories, remember, engine, model[0], events)
