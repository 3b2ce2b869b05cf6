"""Questions about memories, with the answers that are right.

Either a folder of MADial-Bench (Chinese; He et al. 2024, arXiv:2409.15240), or lines of JSON of one's own:

    {"memory": "m1", "owner": "ming", "text": "小明的猫叫年糕"}
    {"query": "我的猫叫什么？", "owner": "ming", "gold": ["m1"], "dialogue": "d7"}

A query is asked by its owner, of that owner's memories. Lines may come in any order; `dialogue` may be missing, and
says which queries belong together, for the confidence intervals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from qqmem.errors import InvalidRequest

_LINE = re.compile(r"^\s*<([^>]*)>\s*[:：]?\s*(.*?)\s*$", re.S)
_ASSISTANT = "Assistant"


class Turn(NamedTuple):
    """What one side of a dialogue says."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """A memory. owner: whose it is."""

    id: str
    owner: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """gold: the ids of what should be found, at least one of them; none where no memory is needed.

    before: what was said before it, oldest first.
    """

    text: str
    owner: str
    gold: frozenset[str]
    dialogue: str
    before: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is remembered, and what is asked. others: what is said where no memory is needed (MADial-Bench only)."""

    memories: list[Remembered]
    questions: list[Question]
    others: list[Question] = field(default_factory=list)


def load(path: Path, context: int = 0) -> Corpus:
    """Read a folder of MADial-Bench or a file of one's own. Raises InvalidRequest with the number of a bad line.

    context: turns before the last user turn that become part of the query (MADial-Bench only).
    """
    corpus = Corpus([], [])
    if path.is_dir():
        for where, line in _lines(_only(path, "*memory.json")):
            with _refusing(where):
                corpus.memories.extend(_event(entry) for entry in line.values())
        for where, line in _lines(_only(path, "*dialogue.json")):
            with _refusing(where):
                for question in _turns(line, context):
                    (corpus.questions if question.gold else corpus.others).append(question)
    else:
        for where, line in _lines(path):
            with _refusing(where):
                _take(corpus, line, where)
    _check(path, corpus)
    return corpus


def _take(corpus: Corpus, line: dict[str, Any], where: str) -> None:
    if "memory" in line:
        corpus.memories.append(Remembered(str(line["memory"]), str(line["owner"]), _text(line["text"])))
    else:
        gold, dialogue = frozenset(map(str, line["gold"])), str(line.get("dialogue", where))
        corpus.questions.append(Question(_text(line["query"]), str(line["owner"]), gold, dialogue))


def _event(entry: dict[str, Any]) -> Remembered:
    return Remembered(str(entry["id"]), str(entry["user-id"]), _text(entry["event"]))


def _turns(dialogue: dict[str, Any], context: int) -> Iterator[Question]:
    """What the user says before each turn of the assistant, with gold if it is a turn that recalls something.

    Lines of the assistant in a row are one turn, worded in several ways: turns are numbered so.
    """
    lines = groupby(map(_said, dialogue["dialogue"]), key=lambda line: line[0])
    said = [(speaker, next(same)[1]) for speaker, same in lines]
    gold, tested = frozenset(map(str, dialogue["relevant-id"])), {int(turn) for turn in dialogue["test-turn"]}
    if strange := [turn for turn in sorted(tested) if said[turn][0] != _ASSISTANT]:
        raise ValueError(f"turn {strange[0]} is not the assistant's")
    for turn in (turn for turn, (speaker, _) in enumerate(said) if speaker == _ASSISTANT):
        start = max(1, turn - 1 - context)  # the first line only opens it
        text = " ".join(text for _, text in said[start:turn])
        before = [Turn("assistant" if who == _ASSISTANT else "user", text) for who, text in said[1:start]]
        ids = gold if turn in tested else frozenset[str]()
        yield Question(_text(text), str(dialogue["user-id"]), ids, str(dialogue["id"]), tuple(before))


def _said(line: str) -> tuple[str, str]:
    """Speaker and words of a line."""
    found = _LINE.match(line)
    speaker, text = found.groups() if found else ("", line)
    return speaker, text.strip().strip('"“”')


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise InvalidRequest(f"{folder} has no {pattern}; name a folder of MADial-Bench, or a file of JSON lines.")
    return found[0]


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read as UTF-8 text; name another file.") from error
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path.name}, line {number}"
        if line.strip():
            with _refusing(where):
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError("no object")
            yield where, value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("no text")
    return value


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InvalidRequest(
            f"{where} is not of the format that `qqmem eval memory --help` shows ({error})."
        ) from error


def _check(path: Path, corpus: Corpus) -> None:
    """Refuse what cannot be measured."""
    owned = {(memory.owner, memory.id) for memory in corpus.memories}
    if not corpus.questions:
        raise InvalidRequest(f"{path} has no questions; `qqmem eval memory --help` shows the format.")
    for question in corpus.questions:
        if not question.gold:
            raise InvalidRequest(f"{path}: a question of {question.owner} has no gold; name what should be found.")
        if missing := [id for id in sorted(question.gold) if (question.owner, id) not in owned]:
            raise InvalidRequest(f"{path}: {question.owner} has no memory {missing[0]}, which a question asks for.")
