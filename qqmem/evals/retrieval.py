"""How well memories are found: each lane by itself, and all together, everybody among their own.

Share of gold in the first k (R@k), any gold in the first k (hit@k), and the mean of 1 / rank of the first gold (MRR).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qqmem.db import Database
from qqmem.evals.data import Corpus, Question
from qqmem.evals.figures import Draws, Figure
from qqmem.memory.memories import Memories
from qqmem.memory.scope import View
from qqmem.memory.types import Encoder, Hit, Lane, NewMemory, Query

_DEPTH = 50
_CUTS = (1, 5, 10)
_LANES: tuple[Lane, ...] = ("text", "lexical")

Row = dict[str, float]
"""The measures of one question."""


@dataclass(frozen=True, slots=True)
class Report:
    """lanes: of each lane and of `fused`, the measures by name."""

    num_memories: int
    num_questions: int
    num_dialogues: int
    encoder: str
    lanes: dict[str, dict[str, Figure]]

    def as_json(self) -> dict[str, Any]:
        lanes = {
            lane: {name: figure.as_json() for name, figure in figures.items()} for lane, figures in self.lanes.items()
        }
        about = {"memories": self.num_memories, "questions": self.num_questions, "dialogues": self.num_dialogues}
        return {**about, "encoder": self.encoder, "lanes": lanes}

    def as_text(self) -> str:
        names = list(next(iter(self.lanes.values())))
        head = f"{self.num_questions} questions in {self.num_dialogues} dialogues, {self.num_memories} memories, "
        lines = [head + f"encoder {self.encoder}; mean [95 %]", f"{'':8}" + "".join(f"{name:>18}" for name in names)]
        for lane, figures in self.lanes.items():
            lines.append(f"{lane:8}" + "".join(f"{figure!s:>18}" for figure in figures.values()))
        return "\n".join(lines)


@asynccontextmanager
async def fresh_memories(encoder: Encoder | None) -> AsyncGenerator[Memories]:
    """An empty memory in a data folder of its own, which goes with it."""
    temporary = await asyncio.to_thread(TemporaryDirectory, prefix="qqmem-eval-")
    folder = Path(temporary.name)
    try:
        async with (
            Database.open(folder) as db,
            Memories.open(db, encoder, folder / "index", max_size=10**9) as memories,
        ):
            yield memories
    finally:
        await asyncio.to_thread(temporary.cleanup)


async def evaluate(corpus: Corpus, encoder: Encoder | None) -> Report:
    """Remember the corpus, and ask all its questions."""
    rows: dict[str, list[Row]] = defaultdict(list)
    async with fresh_memories(encoder) as memories:
        scopes = {owner: f"user:{n}" for n, owner in enumerate({memory.owner for memory in corpus.memories})}
        names = await _remember(memories, corpus, scopes)
        for question in corpus.questions:
            view = View(frozenset({scopes[question.owner]}))
            hits = await memories.search(Query(question.text), view, _DEPTH)
            for lane, found in _orders(hits, encoder is not None).items():
                rows[lane].append(_measured([names[hit.memory.id] for hit in found], question))
    draws = Draws([question.dialogue for question in corpus.questions])
    lanes = {
        lane: {name: draws.mean([row[name] for row in found]) for name in found[0]} for lane, found in rows.items()
    }
    about = len(corpus.memories), len(corpus.questions), draws.num
    return Report(*about, encoder.space if encoder else "none", lanes)


async def _remember(memories: Memories, corpus: Corpus, scopes: Mapping[str, str]) -> dict[int, frozenset[str]]:
    """The names of what each stored memory stands for: of one text there may be several."""
    now = datetime.now(UTC)
    names: dict[tuple[str, str], set[str]] = defaultdict(set)
    for memory in corpus.memories:
        names[scopes[memory.owner], memory.text].add(memory.id)
    new = [NewMemory("fact", scope, text, now) for scope, text in names]
    added = await memories.add(new, "eval")
    return {memory.id: frozenset(names[memory.scope, memory.text]) for memory in added}


def _orders(hits: Sequence[Hit], has_encoder: bool) -> dict[str, list[Hit]]:
    """The hits as each lane alone would order them, and as they are."""
    lanes = _LANES if has_encoder else _LANES[1:]
    orders = {
        str(lane): sorted((hit for hit in hits if lane in hit.lanes), key=lambda hit: hit.lanes[lane].rank)
        for lane in lanes
    }
    return {**orders, "fused": list(hits)}


def _measured(found: Sequence[frozenset[str]], question: Question) -> Row:
    right = [len(names & question.gold) for names in found]
    first = next((rank for rank, num in enumerate(right, 1) if num), 0)
    shares = {f"R@{k}": sum(right[:k]) / len(question.gold) for k in _CUTS}
    hits = {f"hit@{k}": float(any(right[:k])) for k in _CUTS[1:]}
    return {**shares, **hits, "MRR": 1 / first if first else 0.0}
