"""A bot that learns: real stores, real files and processes; the model, its engine and its trainers are played."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qqmem.db import Database
from qqmem.engine.prompt import Prompts
from qqmem.history import History
from qqmem.learn import Learn
from qqmem.memory.extract import Answer
from qqmem.memory.memories import Memories
from qqmem.memory.scope import View
from qqmem.memory.search import calibration_texts, space_id
from qqmem.memory.types import Memory
from qqmem.memory.words import Segmenter
from qqmem.run_parts import Base, Hooks, Report, Voice
from qqmem.runs import Run, Runs
from qqmem.settings import Settings
from qqmem.settings_train import Train
from qqmem.train.releases import Manifest, Releases
from tests.memory.encoders import Letters
from tests.memory.records import told


class Characters(Segmenter):
    """Each character is a word: no dictionary to load."""

    def words(self, text: str) -> list[str]:
        return [char for char in text if char.isalnum()]

    def weight(self, word: str) -> float:
        return 5.0


FAKE = Path(__file__).parent / "fake_trainer.py"


@dataclass
class Played:
    """What the rest of the program does for a run. log: all of it, in order.

    answer: of the model, to a person's words. decodable: ids, by the gate; None is all. fault: called with the name of
    each hook before it does anything; it may raise. details: more of the gate's report.
    """

    folder: Path
    answer: Callable[[str], str] = lambda text: f"你记得{text[:6]}吗？\n{text[:5]}是怎么回事？"
    passed: bool = True
    decodable: tuple[int, ...] | None = None
    fault: Callable[[str], None] = lambda _: None
    details: Mapping[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    told: list[tuple[Run, Mapping[str, Any]]] = field(default_factory=list)
    serving: Path | None = None
    starter: Path | None = None

    def _do(self, name: str) -> None:
        self.log.append(name)
        self.fault(name)

    async def ready(self) -> Base:
        self._do("ready")
        return Base("tiny", "ab", self.folder / "model", SPACE, self.starter)

    async def ask(self, system: str, user: str) -> Answer:
        self.fault("ask")
        return Answer(self.answer(user), True)

    async def gate(self, run: Path) -> Report:
        self._do("gate")
        ids = tuple(line["id"] for line in await asyncio.to_thread(lines, run / "memories.jsonl"))
        decodable = ids if self.decodable is None else self.decodable
        reason = "" if self.passed else "exact is .20, and must be .50."
        figures = {"exact": 0.75}
        details = {"figures": figures, **self.details}
        return Report(self.passed, reason, figures, decodable, "model", {"state": 1.0}, details)

    async def swap(self, release: Path | None) -> None:
        self._do("swap")
        self.serving = release

    async def pause(self) -> None:
        self._do("pause")

    async def resume(self) -> None:
        self._do("resume")


@dataclass
class Bot:
    learn: Learn
    memories: Memories
    history: History
    played: Played
    folder: Path

    def plan(self, **stages: list[list[Any]]) -> None:
        """What the trainers do, in place of what they did."""
        runs = self.folder / "train" / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        (runs / "plan.json").write_text(json.dumps(stages))

    def run_folder(self, id: int) -> Path:
        return self.folder / "train" / "runs" / str(id)

    async def remember(self, *texts: str, **fields: Any) -> list[Memory]:
        return await self.memories.add([told(text, "user:10001", **fields) for text in texts], "test")

    async def run(self) -> Run:
        """A run, to its end."""
        run = await self.learn.trigger("test")
        await self.learn.wait()
        return await self.learn.runs.find(run.id)

    async def manifest(self, release: str) -> Manifest:
        return await asyncio.to_thread(self.learn.releases.read, release)

    async def releases(self) -> list[str]:
        return await asyncio.to_thread(self.learn.releases.names)

    async def decodable(self) -> dict[int, str]:
        return {one.id: one.decodable for one in await self.memories.store.page(View.all(), 100) if one.decodable}


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def voice() -> Voice:
    prompts = Prompts.load("zh", None, Settings().chat.prompt_order)
    return Voice.load(prompts, "小忆", "zh")


@asynccontextmanager
async def learning(
    folder: Path, segmenter: Segmenter, played: Played | None = None, *, values: bool = True, **options: Any
) -> AsyncIterator[Bot]:
    """options: settings of the section train; `free`: bytes of disk."""
    played = played or Played(folder)
    free = options.pop("free", 2**40)
    async with Database.open(folder) as db, Memories.open(db, None, folder / "index", segmenter=segmenter) as memories:
        if values:
            await memories.attach_values(Letters("values"))
        history = History(db)
        learn = Learn(
            Runs(db),
            memories,
            history,
            Releases(folder / "releases"),
            folder / "train",
            VOICE,
            Train(**options),
            Hooks(played.ready, played.ask, played.ask, played.gate, played.swap, played.pause, played.resume),
            command=lambda stage, run: [sys.executable, str(FAKE), stage, str(run)],
            tell=lambda run, progress: played.told.append((run, progress)),
            free=lambda _: free,
            poll=0.02,
        )
        async with learn:
            yield Bot(learn, memories, history, played, folder)


VOICE = voice()
SPACE = space_id(Letters("values"), calibration_texts())
