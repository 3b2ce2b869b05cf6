"""What a training run is given by the rest of the program."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from qqmem.engine.prompt import Prompts
from qqmem.memory.extract import Ask
from qqmem.train.releases import Trigger

Command = Callable[[str, Path], Sequence[str]]
"""The command line that trains a stage, `stage1` or `stage2`, in the folder of a run."""


@dataclass(frozen=True, slots=True)
class Base:
    """The model that is trained. folder: a local one. space: the id of the space of values, as the store
    knows it (search.space_id). starter: the release that training begins with, if one comes with the package.
    """

    name: str
    sha256: str
    folder: Path
    space: str
    starter: Path | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What the gate has found. reason: which measure failed, one sentence. decodable: ids of memories written exactly.

    margin: of the model's decision to recall (engine.types.Opening).
    details: all of it, for report.json; no text of a memory.
    """

    passed: bool
    reason: str
    metrics: Mapping[str, Any]
    decodable: tuple[int, ...]
    trigger: Trigger
    lanes: Mapping[str, float]
    details: Mapping[str, Any]
    margin: float = 0.0


Gate = Callable[[Path], Awaitable[Report]]
"""Measures what stage2 has made in the folder of a run."""
Swap = Callable[[Path | None], Awaitable[None]]
"""Has the engine take a release, or none: between two steps. If it raises, the one before goes on serving."""


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Hooks:
    """What training needs of the rest. ready: waits for the model and its vectors.

    ask: the untrained model, about a memory. chat: the same, to write a short reply; it may be broken off.
    at_once: how many of these it answers together.
    pause, resume: the model makes room on the GPU, and comes back (train.gpu: exclusive).
    """

    ready: Callable[[], Awaitable[Base]]
    ask: Ask
    chat: Ask
    gate: Gate
    swap: Swap
    pause: Callable[[], Awaitable[None]] = _nothing
    resume: Callable[[], Awaitable[None]] = _nothing
    at_once: int = 4


@dataclass(frozen=True, slots=True)
class Voice:
    """How the bot speaks. words: of prompts/learn.<language>.yaml."""

    prompts: Prompts
    bot_name: str
    language: Literal["zh", "en"]
    words: Mapping[str, Any]

    @classmethod
    def load(cls, prompts: Prompts, bot_name: str, language: Literal["zh", "en"]) -> Self:
        """Blocks."""
        text = (resources.files("qqmem") / "prompts" / f"learn.{language}.yaml").read_text("utf-8")
        return cls(prompts, bot_name, language, yaml.safe_load(text))
