"""Drawing facts from what was said: what the model is shown, and how its answer is read. Whether it is true is
grounding.py's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, takewhile

LONGEST_SHOWN = 300
"""Characters of one message that the model is shown; more of it is cut."""

_MOST_CLAIMS = 60
_MOST_CITED = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote behind its thinking. complete: it ended by itself, its last line is whole."""

    text: str
    complete: bool


Ask = Callable[[str, str], Awaitable[Answer]]
"""Asks the model, nobody waiting: (system prompt, what a person would say) to its answer. Raises EngineError."""


@dataclass(frozen=True, slots=True)
class Source:
    """A message to draw facts from. id: of its row. speaker: a QQ number. name: one line without brackets or colons."""

    id: int
    speaker: str
    name: str
    text: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A line of the answer. numbers: of the messages that it cites.

    text: what it says. longer: the same with the lines that follow, if it may go on there; else empty.
    """

    numbers: tuple[int, ...]
    text: str
    longer: str = ""


def shown(sources: Sequence[Source]) -> str:
    """The messages as the model reads them, numbered from 1, each on one line whatever people type."""
    return "\n".join(f"{n}. {one.name}({one.speaker})：{_line(one.text)}" for n, one in enumerate(sources, 1))


def fitting(sources: Sequence[Source], chars: int) -> list[Source]:
    """As many of the first messages as have so many characters when shown; at least one, if there is one."""
    sizes = accumulate(len(_line(one.text)) + len(one.name) + len(one.speaker) for one in sources)
    num = sum(1 for size in sizes if size <= chars)
    return list(sources[: max(num, 1)])


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else line[:LONGEST_SHOWN] + "…"


# ---- reading the answer ------------------------------------------------------------------------------------------

_OPEN, _SHUT = r"[\[［【〔(（<]", r"[\]］】〕)）>]"
_WORD = r"(?:消息|编号|来源|source|sources|message|messages|msg|no\.?|#)?\s*[:：]?\s*"
_NUMBERS = r"\d{1,3}(?:\s*[,，、;&和\s]\s*\d{1,3}|\s*[-–~至到]\s*\d{1,3})*"
_CITATION = rf"{_OPEN}\s*{_WORD}({_NUMBERS})\s*{_SHUT}"
_LEADING = re.compile(rf"(?:\d{{1,3}}\s*[.、:：)）]\s*)?((?:{_CITATION}[\s,，、]*)+)[:：.、\-–—\s]*", re.IGNORECASE)
_TRAILING = re.compile(rf"[\s,，。.;；]*((?:{_CITATION}[\s,，、]*)+)[。.;；,，\s]*$", re.IGNORECASE)
_LISTED = re.compile(r"(\d{1,3})\s*[.、:：)）]\s*(?=\D)")
_RANGE = re.compile(r"(\d+)\s*[-–~至到]\s*(\d+)|(\d+)")
_BULLET = re.compile(r"^(?:[-*•·●○▪>#+]+\s+|[*•·●○▪]+)+")
_CONTROL = re.compile(r"<\|[^|<>]{1,40}\|>")
_QUOTES = "\"'“”‘’`,，"
_ENDS = "。.！!；;"


def parse(answer: Answer) -> list[Claim]:
    """The lines that cite messages, in order, each once. Thinking, commentary and a line that was cut off are none."""
    text = _spoken(answer)
    claims: dict[Claim, None] = {}
    lines = [_tidy(line) for line in _lines(text)]
    for at, line in enumerate(lines):
        claim = _claim(line, lines[at + 1 :])
        if claim is not None:
            claims.setdefault(claim)
    return list(claims)[:_MOST_CLAIMS]


def _spoken(answer: Answer) -> str:
    """What stands behind any thinking; nothing, if the thinking has no end."""
    text = answer.text.rpartition("</think>")[2]
    text = text.partition("<think>")[0]
    if not answer.complete:
        text = text.rpartition("\n")[0]
    return _CONTROL.sub("", text)


def _lines(text: str) -> Iterator[str]:
    """The lines of an answer; the entries, if it is JSON as a whole or line by line."""
    body = re.sub(r"^\s*```\w*\s*$", "", text, flags=re.MULTILINE).strip()
    whole = _json(body)
    if whole is not None:
        yield from _entries(whole)
        return
    for line in body.splitlines():
        found = _json(line.strip().rstrip(","))
        yield from [line] if found is None else _entries(found)


def _json(text: str) -> object:
    """The object or list that the text is, None if it is none. `[3]` alone is a citation."""
    if not text.startswith(("{", '["', "[{")):
        return None
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found


def _entries(found: object) -> Iterator[str]:
    """Each entry of JSON as a line: the numbers in it as citations, then its longest text."""
    if isinstance(found, list):
        for entry in found:
            yield from _entries(entry)
    elif isinstance(found, str):
        yield " ".join(found.split())
    elif isinstance(found, dict):
        values = list(found.values())
        nested = [
            value for value in values if isinstance(value, dict) or (isinstance(value, list) and _has_text(value))
        ]
        if nested:
            yield from (line for value in nested for line in _entries(value))
            return
        numbers = [str(n) for value in values for n in (value if isinstance(value, list) else [value]) if _is_number(n)]
        texts = [value for value in values if isinstance(value, str) and not _is_number(value)]
        yield f"[{','.join(numbers)}] " * bool(numbers) + " ".join(max(texts, key=len, default="").split())


def _has_text(values: list[object]) -> bool:
    return any(not _is_number(value) for value in values)


def _is_number(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdecimal())


def _tidy(line: str) -> str:
    return _BULLET.sub("", line.strip()).replace("**", "").strip().strip(_QUOTES).strip()


def _claim(line: str, following: Sequence[str]) -> Claim | None:
    """The claim that begins in this line; None if it cites nothing."""
    numbers, text = _cited(line)
    if not numbers or not text:
        return None
    if text[-1] in _ENDS or _TRAILING.search(line):
        return Claim(numbers, text)
    rest = list(takewhile(lambda more: more and not _cited(more)[0], following))
    return Claim(numbers, text, _bare(text + rest[0]) if rest else "")


def _cited(line: str) -> tuple[tuple[int, ...], str]:
    """The numbers that a line cites, and what else it says."""
    numbers, text = list[int](), line
    if leading := _LEADING.match(text):
        numbers, text = _numbers(leading[1]), text[leading.end() :]
    if trailing := _TRAILING.search(text):
        numbers, text = numbers + _numbers(trailing[1]), text[: trailing.start()]
    listed = _LISTED.match(text)
    if listed:
        # A number before the text is the citation only if there is no other.
        numbers, text = numbers or [int(listed[1])], text[listed.end() :]
    return tuple(dict.fromkeys(numbers)), _bare(text)


def _numbers(text: str) -> list[int]:
    found = list[int]()
    for first, last, single in _RANGE.findall(text):
        found += [int(single)] if single else range(int(first), min(int(last), int(first) + _MOST_CITED) + 1)
    return found[:_MOST_CITED]


def _bare(text: str) -> str:
    return text.strip().strip(_QUOTES).strip()
