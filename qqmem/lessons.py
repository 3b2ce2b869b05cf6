"""What one run trains on, as files in its folder, so that a trainer never opens the database.

    run.json         written last: with it the export is whole
    memories.jsonl   what to remember, and what makes one think of it; values.npy its vectors, centre.npy their centre
    negatives.jsonl  messages that need no memory
    sft.jsonl        ordinary conversations; heldout.jsonl: others, for the gate
    origin.json      whose texts are in these files: memories by id, with a hash of what they told

Nothing forgotten is in it: what may be found now is all that is read. PRIVATE names the files that hold texts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qqmem.abreast import abreast
from qqmem.errors import PromptTooLong, TrainingError
from qqmem.history import History
from qqmem.memory.extract import Ask
from qqmem.memory.memories import Memories
from qqmem.memory.scope import View
from qqmem.memory.search import can_answer
from qqmem.memory.store import Store
from qqmem.memory.types import Memory, State, Vectors

PRIVATE = ("memories.jsonl", "values.npy", "centre.npy", "negatives.jsonl", "sft.jsonl", "heldout.jsonl", "origin.json")

Tell = Callable[[int, int], None]
"""Told how much of the export is done, of how much."""

_PAGE = 200
_MOST_SOURCES = 2
_LEAST, _LONGEST = 4, 60
_MARK = re.compile(r"^[\s\-*•·#>]*(?:\(?\d+[.、)）:：]|[一二三四五六七八九十]、|[QＱ问][:：])?\s*")
_SPEAKER = re.compile(r"^[^：:？?，,]{1,8}[：:]\s*")
_TO_THE_BOT = re.compile(r"我|你还?记得|你还?知道|你说|告诉")
_QUOTES = "\"'“”‘’「」『』 "
_ASKS = re.compile(
    r"[?？]$|吗|么|什么|谁|哪|多少|几|怎|记得|\b(?:what|who|where|when|which|how|why|do|does|did|is|are)\b", re.I
)
_CLAUSE = re.compile(r"[，,。.;；！!？?\n]")
_WORD = re.compile(r"[0-9a-zA-Z]+|[\u3400-\u9fff]")
_TOPIC = 14


@dataclass(frozen=True, slots=True)
class Cue:
    """What makes one think of a memory: the message that it comes from, a question, or a thought."""

    kind: Literal["source", "question", "thought"]
    text: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """A memory to be trained. value: its vector."""

    memory: Memory
    value: Vectors
    cues: Sequence[Cue]
    held_out: Sequence[Cue]

    @property
    def line(self) -> dict[str, Any]:
        """As a trainer reads it."""
        return {
            "id": self.memory.id,
            "text": self.memory.told,
            "subject_id": self.memory.subject_id,
            "speaker_name": self.memory.speaker_name,
            "kind": self.memory.kind,
            "scope": self.memory.scope,
            "cues": [{"kind": cue.kind, "text": cue.text} for cue in self.cues],
            "held_out": [{"kind": cue.kind, "text": cue.text} for cue in self.held_out],
        }


class Lessons:
    """Draws up lessons. words: of prompts/learn.<language>.yaml. num_questions: thought up for each memory.

    at_once: how many memories the model is asked about together.
    """

    def __init__(
        self,
        memories: Memories,
        history: History,
        ask: Ask,
        words: Mapping[str, Any],
        num_questions: int,
        at_once: int = 4,
    ) -> None:
        self._memories = memories
        self._history = history
        self._ask = ask
        self._words = words
        self._num_questions = num_questions
        self._at_once = at_once

    async def draw(self, most: int, tell: Tell) -> tuple[list[Lesson], dict[int, str]]:
        """The lessons, and the hashes of all memories that are in them, by id. Raises TrainingError, EngineError."""
        chosen = (await candidates(self._memories.store))[:most]
        drawn = await abreast(self._lesson, chosen, self._at_once, tell)
        lessons = [lesson for lesson in drawn if lesson is not None]
        told = {one.memory.id: _hash(one.memory) for one in lessons}
        if not lessons:
            raise TrainingError("No memory has a vector of the model's own; see whether recall.trigger is off.")
        # While the model wrote, some may have been forgotten or corrected.
        same = await unchanged(self._memories.store, told)
        return [one for one in lessons if one.memory.id in same], {id: told[id] for id in same}

    async def _lesson(self, memory: Memory) -> Lesson | None:
        value = await self._memories.value(memory.id)
        if value is None:
            return None
        sources = [Cue("source", text) for text in await self._sources(memory)]
        questions = await self._questions(memory)
        topic = topic_of(memory.text)
        thoughts = [Cue("thought", one.format(topic=topic)) for one in self._words["thoughts"]]
        cues = [*sources, *(Cue("question", one) for one in questions[:-1]), *thoughts]
        return Lesson(memory, value, cues, [Cue("question", questions[-1])])

    async def _sources(self, memory: Memory) -> list[str]:
        """The messages that it comes from, but for withdrawn ones."""
        texts = []
        for id in memory.sources[:_MOST_SOURCES]:
            found = await self._history.said_after(memory.conversation, id - 1, 1)
            texts += [one.text for one in found if one.id == id]
        return texts

    async def _questions(self, memory: Memory) -> list[str]:
        """At least two, the last of which is held out: the model's own, filled up with ours where it writes rubbish."""
        told = ""
        with suppress(PromptTooLong):
            prompt = self._words["questions"].format(n=self._num_questions).strip()
            told = (await self._ask(prompt, memory.told)).text
        topic = topic_of(memory.text)
        own = questions_in(told, memory.text)[: self._num_questions]
        # Which of ours comes first differs from one memory to the next, so that the held-out ones differ too.
        turn = memory.id % len(self._words["topics"])
        ours = [one.format(topic=topic) for one in (*self._words["topics"][turn:], *self._words["topics"][:turn])]
        return [*own, *ours[: max(self._num_questions, 2) - len(own)]]

    def negatives(self, lessons: Iterable[Lesson]) -> list[str]:
        """Small talk, tasks, and people telling what was not known before: nothing is to be recalled for it."""
        sources = (cue.text for one in lessons for cue in one.cues if cue.kind == "source")
        telling = (text for text in sources if not _ASKS.search(text))
        return list(dict.fromkeys([*self._words["quiet"], *telling]))


async def candidates(store: Store) -> list[Memory]:
    """What can be trained, the most important first: pinned, facts, much used, new."""
    async with aclosing(_all(store, "searchable")) as found:
        memories = [one async for one in found if can_answer(one)]
    return sorted(memories, key=lambda one: (not one.pinned, one.kind != "fact", -one.hits, -one.id))


async def unchanged(store: Store, told: Mapping[int, str]) -> set[int]:
    """Those of the memories that still tell what they told, by their hashes; of any state but deleted."""
    found = set()
    for state in ("searchable", "superseded", "expired"):
        async with aclosing(_all(store, state)) as memories:
            found |= {one.id async for one in memories if told.get(one.id) == _hash(one)}
    return found


async def _all(store: Store, state: State) -> AsyncGenerator[Memory]:
    before = None
    while page := await store.page(View.all(), _PAGE, before, state=state):
        for memory in page:
            yield memory
        before = page[-1].id


def questions_in(answer: str, memory: str) -> list[str]:
    """The usable ones of the lines that the model wrote: they ask, are about it, and do not give it away.

    Small models ask the person, as in an interview, where the person is to ask: those are turned round.
    """
    known = _pairs(memory)
    found = dict[str, None]()
    for line in answer.splitlines():
        text = _SPEAKER.sub("", _MARK.sub("", line, count=1)).strip(_QUOTES)
        if not _TO_THE_BOT.search(text):
            text = text.replace("你", "我")
        shared = known & _pairs(text)
        if _LEAST <= len(text) <= _LONGEST and _ASKS.search(text) and shared and len(shared) < 0.7 * len(known):
            found.setdefault(text)
    return list(found)


def topic_of(text: str) -> str:
    """What a memory is about, in a few words: the beginning of its first clause that says something."""
    clauses = [part.strip() for part in _CLAUSE.split(text) if part.strip()]
    # "嗯，", "是啊，" say nothing.
    clause = next((one for one in clauses if len(one) >= _LEAST), clauses[0] if clauses else text.strip())
    if len(clause) <= _TOPIC:
        return clause
    cut = clause[:_TOPIC]
    # Not in the middle of a word, where words have ends.
    return (cut.rpartition(" ")[0] or cut) if clause[_TOPIC - 1 : _TOPIC + 1].isascii() else cut


def _pairs(text: str) -> set[str]:
    words = _WORD.findall(text.lower())
    return {"".join(pair) for pair in pairwise(words)} or set(words)


def _hash(memory: Memory) -> str:
    return hashlib.sha256(memory.told.encode()).hexdigest()


# ---- files -----------------------------------------------------------------------------------------------------------


async def write(
    folder: Path,
    run: Mapping[str, Any],
    lessons: Sequence[Lesson],
    origin: Mapping[int, str],
    negatives: Sequence[Mapping[str, Any]],
    chats: tuple[Sequence[Any], Sequence[Any]],
    centre: Vectors,
) -> None:
    """Write all files of a run. run: what run.json holds. chats: to train on, and held out. Raises OSError."""

    def write_all() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _lines(folder / "memories.jsonl", [one.line for one in lessons])
        np.save(folder / "values.npy", np.stack([one.value for one in lessons]).astype(np.float32))
        np.save(folder / "centre.npy", centre.astype(np.float32))
        _lines(folder / "negatives.jsonl", negatives)
        for name, part in zip(("sft", "heldout"), chats, strict=True):
            _lines(folder / f"{name}.jsonl", [{"messages": chat} for chat in part])
        (folder / "origin.json").write_text(json.dumps(origin), "utf-8")
        aside = folder / "run.new"
        aside.write_text(json.dumps(run, ensure_ascii=False, indent=1), "utf-8")
        aside.replace(folder / "run.json")

    await asyncio.to_thread(write_all)


def read_origin(folder: Path) -> dict[int, str]:
    """The hashes of the memories in a run's files; none if the export is not whole. Blocks."""
    try:
        if not (folder / "run.json").exists():
            return {}
        found = json.loads((folder / "origin.json").read_text("utf-8"))
        return {int(id): str(told) for id, told in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _lines(path: Path, records: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), "utf-8")
