"""What one turn recalls: which memories may come into it, which one does, and what there was to choose from."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any, Literal

from qqmem.engine.prompt import clean_name
from qqmem.engine.types import Ask, Found, Mode, Opening
from qqmem.history import History
from qqmem.memory.memories import Memories
from qqmem.memory.pieces import words_of
from qqmem.memory.scope import View
from qqmem.memory.types import Hit, Memory, Query
from qqmem.records import Message, Recall
from qqmem.settings import Recall as Settings

Trigger = Literal["model", "score", "both", "off"]

_SHOWN = 5
"""Candidates that are kept for whoever asks why."""
_CUE_CHARS = 100
"""How much of what the model has just written says what it looks for."""
CLEAR = 0.5
"""By how much a memory has to fit better where nobody asks for it and nothing was said yet."""
_SECONDS = 5.0
"""A reply waits no longer for its memory; a search takes some milliseconds."""

_ME = re.compile(r"我|咱|俺|\b(?:i|me|my|mine)\b", re.I)


class Recollections:
    """Begins the recollection of each turn. chance: draws from [0, 1), for recall.temperature."""

    def __init__(
        self,
        memories: Memories,
        history: History,
        settings: Settings,
        *,
        release: str = "",
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self._memories = memories
        self._history = history
        self._release = release
        self._learned: Trigger = "both"
        self._margin = 0.0
        self._chance = chance

    @property
    def trigger(self) -> Trigger:
        """Who decides that a memory is needed."""
        return self._learned if self.settings.trigger == "auto" else self.settings.trigger

    def opening(self, token: int) -> Opening | None:
        """How a recall that begins with this token opens a turn; the untrained model knows no such thing."""
        return Opening(token, self._margin) if self._release and self.trigger != "score" else None

    def use(self, release: str, trigger: Trigger, margin: float = 0.0) -> None:
        """A release serves from now on, "" for none; who is to decide then, and by what margin the model does."""
        self._release, self._learned, self._margin = release, trigger, margin

    async def begin(
        self,
        conversation: str,
        messages: Sequence[Message],
        visible: Collection[int],
        before: str = "",
        *,
        opens: bool = False,
        guide: str = "",
    ) -> Recollection:
        """messages: those that the turn answers. visible: ids of those that its prompt shows, these among them.

        before: what the bot said just before them. opens: whether nobody said anything. guide: words that lead into a
        recall, whatever it is for.

        What the prompt shows need not be recalled, and what was recalled a moment ago is not recalled again.
        """
        store = self._memories.store
        known = await store.by_source(conversation, visible)
        recent = await self._history.recalled(conversation, self.settings.cooldown)
        opened = await store.choices("open") & {f"user:{message.sender.id}" for message in messages}
        view = View.of(conversation, {party.removeprefix("user:") for party in opened})
        without = {memory.id for memory in known} | recent
        shown = conversation, frozenset(visible), frozenset(memory.told for memory in known)
        said = messages, words_of(before)
        least = CLEAR if opens and self._release and self.trigger == "both" else 0.0
        return Recollection(
            self._memories, self.settings, self._release, self._chance, view, said, without, shown, least, guide
        )

    async def used(self, recalls: Sequence[Recall]) -> None:
        """Count the memories that came into a turn."""
        if used := [recall.memory for recall in recalls if recall.memory is not None]:
            await self._memories.store.used(used)


class Recollection:
    """The recalls of one turn. recalls: those that are over."""

    def __init__(
        self,
        memories: Memories,
        settings: Settings,
        release: str,
        chance: Callable[[], float],
        view: View,
        said: tuple[Sequence[Message], str],
        without: set[int],
        shown: tuple[str, frozenset[int], frozenset[str]],
        least: float,
        guide: str,
    ) -> None:
        self.recalls: list[Recall] = []
        self._memories = memories
        self._settings = settings
        self._release = release
        self._chance = chance
        self._view = view
        messages, self._before = said
        self._asker = messages[-1].sender
        self._asked = "\n".join(words_of(message.text) for message in messages)
        self._without = without
        self._conversation, self._shown, self._texts = shown
        self._least = least
        self._guide = guide
        self._cue = ""
        self._hits: list[Hit] = []
        self._chosen: Hit | None = None

    async def is_called_for(self) -> bool:
        """Whether a memory fits the messages themselves, before a word is written.

        Where the model decides as well, what opens a talk is its matter, unless a memory fits clearly: people begin
        with news, and are asked how it was before they are told what it reminds one of.
        """
        return any(hit.lead > self._least for hit in await self._search(Query(self._asked, before=self._before)))

    async def find(self, ask: Ask) -> Found | None:
        """The memory that fits best what the model asks for."""
        written = ask.written.strip().removeprefix("<think>").strip().removeprefix(self._guide)
        self._cue = written.strip()[-_CUE_CHARS:]
        self._hits, self._chosen = [], None
        async with asyncio.timeout(_SECONDS):
            self._hits = await self._search(Query(f"{self._cue}\n{self._asked}".strip(), ask.query, self._before))
            self._chosen = self._choose([hit for hit in self._hits if hit.fits])
            if self._chosen is None:
                return None
            memory = self._chosen.memory
            self._without.add(memory.id)
            decodable = bool(self._release) and memory.decodable == self._release
            return Found(memory.told, await self._memories.value(memory.id), decodable)

    def closed(self, mode: Mode) -> Recall:
        """The recall that `find` began is over; so it is kept."""
        chosen = self._chosen.memory.id if self._chosen is not None and mode != "none" else None
        recall = Recall(self._cue, mode, chosen, tuple(_candidate(hit) for hit in self._hits[:_SHOWN]))
        self.recalls.append(recall)
        return recall

    async def _search(self, query: Query) -> list[Hit]:
        hits = await self._memories.search(query, self._view, 4 * _SHOWN, without=self._without, for_recall=True)
        # What is being answered may have become a memory since the turn began.
        hits = [hit for hit in hits if not self._is_shown(hit.memory)]
        return sorted(hits, key=lambda hit: not (hit.fits and self._is_about(hit)))

    def _is_shown(self, memory: Memory) -> bool:
        """Whether the prompt shows it, or the same as it was said elsewhere."""
        is_here = memory.conversation == self._conversation and not self._shown.isdisjoint(memory.sources)
        return is_here or memory.told in self._texts

    def _is_about(self, hit: Hit) -> bool:
        """Whether a memory is about whom the messages name: the one who asks by `I`, others by their names."""
        memory = hit.memory
        if memory.subject_id == self._asker.id:
            return _ME.search(self._asked) is not None
        name = clean_name(memory.speaker_name)
        return bool(name) and memory.subject_id == memory.speaker_id and name in self._asked

    def _choose(self, fitting: Sequence[Hit]) -> Hit | None:
        """The best, or at a temperature one that is drawn."""
        if not fitting or not self._settings.temperature:
            return next(iter(fitting), None)
        best = max(hit.score for hit in fitting)
        weights = [math.exp((hit.score - best) / self._settings.temperature) for hit in fitting]
        left = self._chance() * sum(weights)
        for hit, weight in zip(fitting, weights, strict=True):
            left -= weight
            if left < 0:
                return hit
        return fitting[-1]


def _candidate(hit: Hit) -> dict[str, Any]:
    lanes = {lane: asdict(score) for lane, score in hit.lanes.items()}
    return {"id": hit.memory.id, "score": hit.score, "fits": hit.fits, "lanes": lanes}
