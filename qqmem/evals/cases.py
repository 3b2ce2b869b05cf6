"""Messages that need a memory, and messages that do not: in the same style, and of other kinds.

| kind | needs one | what it is | whose memories are there |
|---|---|---|---|
| `madial` | yes | what users say before a turn that is to recall something (MADial-Bench, data.py) | their own |
| `told` | yes | questions about told facts (told.yaml) | all that is told there |
| `madial-other` | no | what the same users say before all other turns | their own |
| `telling` | no | the facts of told.yaml while they are told | the other half of them |
| `smilechat`, `kdconv`, `alpaca-zh` | no | other talk, tasks (foreign.py) | one user's of MADial-Bench, all told |
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import yaml

from qqmem.errors import InvalidRequest
from qqmem.evals.data import Corpus, Question, Turn, load
from qqmem.evals.foreign import READERS, said
from qqmem.memory.types import NewMemory

NEEDS: dict[str, bool] = {
    "madial": True,
    "told": True,
    "madial-other": False,
    "telling": False,
    **dict.fromkeys(READERS, False),
}
"""Of each kind, whether the reply needs a memory."""

_MADIAL = "madial-zh"
_OF_A_FOREIGN_KIND = 500
_HALVES = ("user:told-0", "user:told-1")
_NAME = "小林"


@dataclass(frozen=True, slots=True)
class Case:
    """One message. scopes: whose memories may be seen. dialogue: cases of one are alike. before: said before it."""

    kind: str
    text: str
    scopes: frozenset[str]
    dialogue: str
    before: tuple[Turn, ...] = ()

    @property
    def needs(self) -> bool:
        return NEEDS[self.kind]


class Told(NamedTuple):
    """A fact as somebody tells it, a question about it, and what a good answer has in it."""

    tell: str
    ask: str
    answer: str


@dataclass(frozen=True, slots=True)
class Trial:
    """missing: kinds whose folders are not there."""

    memories: list[NewMemory]
    cases: list[Case]
    missing: list[str]


def told() -> list[Told]:
    """The facts that come with the package."""
    text = resources.files("qqmem.evals").joinpath("told.yaml").read_text(encoding="utf-8")
    return [Told(**item) for item in yaml.safe_load(text)]


def trial(data: Path, limit: int | None = None, seed: int = 0) -> Trial:
    """All cases, with the memories that they are about. Raises InvalidRequest.

    data: a folder with `madial-zh`, and as many of the foreign folders as there are. limit: most cases of a kind;
    without one all, but 500 of a foreign kind. seed: of the draw.
    """
    if not (data / _MADIAL).is_dir():
        raise InvalidRequest(f"{data} has no folder {_MADIAL}; put the Chinese files of MADial-Bench there.")
    corpus = load(data / _MADIAL)
    scopes = {memory.owner: f"user:madial-{memory.owner}" for memory in corpus.memories}
    host = frozenset({min(scopes.values()), *_HALVES})
    own = [*_madial("madial", corpus.questions, scopes), *_madial("madial-other", corpus.others, scopes), *_told()]
    missing = [name for name in READERS if not (data / name).is_dir()]
    foreign = [
        Case(name, one.text, host, f"{name}:{one.dialogue}", one.before)
        for name in READERS
        if name not in missing
        for one in said(data / name)
    ]
    chance = random.Random(seed)
    cases = [*_drawn(own, limit or len(own), chance), *_drawn(foreign, limit or _OF_A_FOREIGN_KIND, chance)]
    return Trial(_memories(corpus, scopes), cases, missing)


def _madial(kind: str, questions: Sequence[Question], scopes: dict[str, str]) -> Iterator[Case]:
    for question in questions:
        scope = frozenset({scopes[question.owner]})
        yield Case(kind, question.text, scope, f"madial:{question.dialogue}", question.before)


def _told() -> Iterator[Case]:
    """Every fact is told while the other half of them is known, and asked for when all are."""
    for number, fact in enumerate(told()):
        yield Case("told", fact.ask, frozenset(_HALVES), f"told:{number}")
        yield Case("telling", fact.tell, frozenset({_HALVES[1 - number % 2]}), f"told:{number}")


def _drawn(cases: Sequence[Case], most: int, chance: random.Random) -> Iterator[Case]:
    """At most so many of each kind, in their order."""
    for kind in dict.fromkeys(case.kind for case in cases):
        same = [case for case in cases if case.kind == kind]
        picked = chance.sample(range(len(same)), min(most, len(same)))
        yield from (same[index] for index in sorted(picked))


def _memories(corpus: Corpus, scopes: dict[str, str]) -> list[NewMemory]:
    """MADial-Bench's events as facts, what is told as the messages that it was."""
    now = datetime.now(UTC)
    facts = [NewMemory("fact", scopes[memory.owner], memory.text, now) for memory in corpus.memories]
    messages = [
        NewMemory("message", _HALVES[number % 2], fact.tell, now, "told", "told", _NAME)
        for number, fact in enumerate(told())
    ]
    return [*facts, *messages]
