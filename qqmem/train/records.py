"""What a run directory holds: the records from which a trainer learns. Files only; no torch, and never the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from qqmem.engine.prompt import Prompts
from qqmem.errors import InvalidRequest

Vectors = NDArray[np.float32]
"""[n, hidden]"""

T = TypeVar("T")

Role = Literal["system", "user", "assistant"]

Chat = tuple[tuple[Role, str], ...]
"""A conversation as (role, text)."""

_ORDER = ("persona", "rules", "output", "actions", "context")


@dataclass(frozen=True, slots=True)
class Cue:
    """What makes one think of a memory.

    source: the message that it comes from. question: a message that needs it. thought: what the bot thinks before it.
    reply: what the bot then says, if that is known. speaker: the name of who says it, "" for whom it may be.
    """

    kind: Literal["source", "question", "thought"]
    text: str
    reply: str = ""
    speaker: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory to learn. text: as the model reads it. held_out: cues that no training may show.

    subject: QQ number of whom it is about, "" for nobody. name: of who said it.
    """

    text: str
    subject: str = ""
    name: str = ""
    kind: str = "fact"
    scope: str = "global"
    cues: tuple[Cue, ...] = ()
    held_out: tuple[Cue, ...] = ()


class Quiet(NamedTuple):
    """A message that needs no memory, with a reply or "". before: what was said before it, oldest first."""

    text: str
    reply: str = ""
    before: Chat = ()


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory, read.

    model: the local folder of the base model. settings: the section `train`.
    values: row i is the centred unit vector of memory i. centre: [hidden], what was subtracted from them.
    negatives: messages that need no memory. sft, held_out_sft: conversations, the latter for tests only. starter: a
    release from which it begins, if any.
    """

    folder: Path
    seed: int
    model: Path
    prompts: Prompts
    bot_name: str
    memories: tuple[Memory, ...]
    values: Vectors
    centre: Vectors
    settings: Mapping[str, Any] = field(default_factory=dict)
    negatives: tuple[Quiet, ...] = ()
    sft: tuple[Chat, ...] = ()
    held_out_sft: tuple[Chat, ...] = ()
    starter: Path | None = None
    decodes: bool = True
    evaluation: tuple[tuple[str, bool], ...] = ()


def read_run(folder: Path) -> Run:
    """Read a run directory. Raises InvalidRequest, naming the file and the line."""
    run = _json(_text(folder / "run.json"), folder / "run.json")
    memories = _lines(folder / "memories.jsonl", _memory)
    if not memories:
        raise InvalidRequest("memories.jsonl is empty: there is nothing to train on; tell the bot something first.")
    values = _array(folder / "values.npy")
    centre = _array(folder / "centre.npy") if (folder / "centre.npy").exists() else np.zeros(values.shape[-1])
    if values.shape[:1] != (len(memories),) or values.ndim != 2 or centre.shape != values.shape[1:]:
        raise InvalidRequest(
            f"values.npy is {values.shape}, which does not fit {len(memories)} memories; export again."
        )
    if not np.isfinite(values).all():
        raise InvalidRequest("values.npy holds numbers that are not finite; export again.")
    try:
        return Run(
            folder=folder,
            seed=int(run["seed"]),
            model=Path(run["model"]),
            prompts=Prompts(run["prompts"], tuple(n for n in run.get("prompt_order", _ORDER) if _has(run, n))),
            bot_name=run["bot_name"],
            memories=memories,
            values=values.astype(np.float32),
            centre=centre.astype(np.float32),
            settings=run.get("settings", {}),
            negatives=_lines(folder / "negatives.jsonl", _quiet),
            sft=tuple(chat for chat in _lines(folder / "sft.jsonl", _chat) if chat),
            held_out_sft=tuple(chat for chat in _lines(folder / "heldout.jsonl", _chat) if chat),
            starter=Path(run["starter"]) if run.get("starter") else None,
            decodes=bool(run.get("decodes", True)),
            evaluation=_lines(folder / "evaluation.jsonl", lambda line: (line["text"], bool(line["needs_memory"]))),
        )
    except KeyError as error:
        raise InvalidRequest(f"run.json has no {error.args[0]}; export again.") from error


def _has(run: Mapping[str, Any], part: str) -> bool:
    return any(name == part or name.startswith(f"{part}.") for name in run["prompts"])


def _quiet(line: Mapping[str, Any]) -> Quiet:
    return Quiet(line["text"], line.get("reply", ""), _chat({"messages": line.get("before", ())}))


def _memory(line: Mapping[str, Any]) -> Memory:
    cues, held_out = (_cues(line.get(name, ())) for name in ("cues", "held_out"))
    return Memory(
        line["text"],
        line.get("subject_id", ""),
        line.get("speaker_name", ""),
        line.get("kind", "fact"),
        line.get("scope", "global"),
        # A text that looks for itself teaches nothing but to copy.
        tuple(cue for cue in cues if plain(cue.text) not in (plain(line["text"]), plain(_unsaid(line)))),
        held_out,
    )


def _unsaid(line: Mapping[str, Any]) -> str:
    """A message without the name of who said it."""
    return str(line["text"]).removeprefix(f"{line.get('speaker_name', '')}：")


def _cues(lines: list[Mapping[str, Any]]) -> tuple[Cue, ...]:
    return tuple(
        Cue(one["kind"], one["text"], one.get("reply", ""), one.get("speaker", ""))
        for one in lines
        if one["text"].strip()
    )


def _chat(line: Mapping[str, Any]) -> Chat:
    """A conversation that the assistant ends, or nothing of it."""
    chat = [(one["role"], one["content"]) for one in line["messages"]]
    while chat and (chat[-1][0] != "assistant" or not chat[-1][1].strip()):
        chat.pop()
    return tuple(chat)


def plain(text: str) -> str:
    """A text by which it is known again: no case, no space, no mark at the end."""
    return "".join(text.casefold().split()).rstrip("。.!！?？~～")


def _lines(path: Path, read: Callable[[Mapping[str, Any]], T]) -> tuple[T, ...]:
    """The records of a file of JSON lines; none if there is no such file."""
    if not path.exists():
        return ()
    records = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                records.append(read(_json(line, path)))
            except (KeyError, TypeError, AttributeError, InvalidRequest) as error:
                raise InvalidRequest(f"{path.name}, line {number}, is broken ({error}); export again.") from error
    return tuple(records)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path.name} of this run cannot be read ({error}); export again.") from error


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{path.name} is not valid JSON ({error}); export again.") from error


def _array(path: Path) -> Vectors:
    try:
        array: Vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path.name} of this run cannot be read ({error}); export again.") from error
    return array
