"""From what is remembered to the files of one run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qqmem import practice
from qqmem.errors import TrainingError
from qqmem.history import History
from qqmem.lessons import Lessons, write
from qqmem.memory.memories import Memories
from qqmem.run_parts import Base, Hooks, Voice
from qqmem.settings_train import Train
from qqmem.train.starter import generate

_MOST_CHATS = 400
_MADE_UP = 120
"""Facts of the starter's generator; twice as many messages that need no memory come with them."""


class Exporter:
    """Writes what a run trains on. folder: of what is kept from one run to the next, which is nobody's."""

    def __init__(
        self, memories: Memories, history: History, hooks: Hooks, voice: Voice, settings: Train, folder: Path
    ) -> None:
        self._memories = memories
        self._history = history
        self._hooks = hooks
        self._voice = voice
        self._settings = settings
        self._folder = folder

    def content(self, id: int, base: Base) -> dict[str, Any]:
        """Of run.json."""
        return {
            "id": id,
            "seed": self._settings.seed,
            "model": str(base.folder.absolute()),
            "model_name": base.name,
            "language": self._voice.language,
            "prompts": dict(self._voice.prompts.parts),
            "prompt_order": list(self._voice.prompts.order),
            "bot_name": self._voice.bot_name,
            "settings": self._settings.model_dump(mode="json"),
            "starter": str(base.starter or ""),
        }

    async def export(
        self, content: Mapping[str, Any], base: Base, folder: Path, tell: Callable[[str, int, int], None]
    ) -> dict[str, Any]:
        """Write the files of a run. Returns figures. Raises TrainingError, EngineError, OSError.

        content: of run.json. tell: what is being made, how much of it is done, of how much.
        """
        settings, hooks = self._settings, self._hooks
        lessons = Lessons(
            self._memories, self._history, hooks.ask, self._voice.words, settings.questions, hooks.at_once
        )
        drawn, origin = await lessons.draw(settings.memories, partial(tell, "export"))
        found = practice.Practice(())
        if settings.sft_path is not None:
            found = await asyncio.to_thread(practice.read, settings.sft_path, _MOST_CHATS, settings.seed)
        chats = found.chats or await self._own_chats(base, partial(tell, "practice"))
        space = await self._memories.store.space(base.space)
        if space is None:
            raise TrainingError("The space of the model's vectors is not known; start the service anew.")
        trained, held_out = practice.split(chats, settings.seed)
        # Talk of people who do not exist beside that of the bot's own: it is more varied, and keeps the starter's sense
        # of when no memory is needed.
        made_up = await asyncio.to_thread(generate, seed=settings.seed, facts=_MADE_UP, hold_out=0)
        negatives = [{"text": text} for text in lessons.negatives(drawn)]
        negatives += [{"text": each["text"], "before": each.get("before", ())} for each in made_up.negatives]
        beside = () if found.chats else [each["messages"] for each in made_up.sft]
        await write(folder, content, drawn, origin, negatives, ([*trained, *beside], held_out), space.centre)
        sft = {
            "chats": len(trained),
            "held_out": len(held_out),
            "own": not found.chats,
            "num_faults": found.num_faults,
            "faults": list(found.faults),
        }
        return {"memories": len(drawn), "sft": sft}

    async def _own_chats(self, base: Base, tell: Callable[[int, int], None]) -> Sequence[practice.Chat]:
        system = self._voice.prompts.phrase("persona", bot_name=self._voice.bot_name)
        hooks, words = self._hooks, self._voice.words
        writer = practice.Writer(hooks.chat, words, system, self._folder, base.name, hooks.at_once)
        return await writer.chats(tell)
