"""Memories as JSON lines, exact both ways but for vectors. A line by hand needs `scope` and `text` only.

`id` and `superseded_by` name lines of the same file; the store gives new ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, get_args

from qqmem.errors import InvalidRequest
from qqmem.memory.rules import checked
from qqmem.memory.types import Kind, Memory

_LARGEST = 2**63 - 1
"""That SQLite can store."""


def encode(memory: Memory) -> str:
    """One line, without its end. Only for what is not deleted."""
    assert memory.state != "deleted", "what was deleted is never exported"
    return json.dumps(asdict(memory), ensure_ascii=False, default=datetime.isoformat)


def decode(line: bytes) -> Memory:
    """A memory to be restored; id 0 if the line has none. Raises InvalidRequest: what is wrong with the line."""
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidRequest("This is no UTF-8; save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("This is no JSON; write one object on each line.") from error
    if not isinstance(found, dict):
        raise InvalidRequest("This is no JSON object; write one on each line.")
    for name, value in found.items():
        _check(name, value)
    if missing := {"scope", "text"} - found.keys():
        raise InvalidRequest(f"There is no `{min(missing)}`; a memory needs `scope` and `text`.")
    return checked(_memory(found))


def _check(name: str, value: object) -> None:
    if name not in _FIELDS:
        raise InvalidRequest(f"There is no field `{name[:40]}`; leave it out.")
    is_right, what = _FIELDS[name]
    if not is_right(value):
        raise InvalidRequest(f"`{name}` is wrong; it has to be {what}.")


def _memory(found: dict[str, Any]) -> Memory:
    now = datetime.now(UTC)
    given: dict[str, Any] = {
        "id": 0,
        "kind": "fact",
        "subject_id": "",
        "speaker_id": "",
        "speaker_name": "",
        "conversation": "",
    }
    given |= {"state": "searchable", "valid_from": now, "created_at": now, "sources": ()}
    times = {name: _time(found[name]) for name in _TIMES if found.get(name) is not None}
    sources = tuple(sorted(set(found.get("sources", ()))))
    return Memory(**(given | found | times | {"sources": sources}))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None and _time(value) is not None
    except (ValueError, OverflowError):
        return False


def _is_time_or_none(value: object) -> bool:
    return value is None or _is_time(value)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(_is_number(one) for one in value)


def _one_of(*choices: str) -> tuple[Callable[[object], bool], str]:
    return lambda value: value in choices, " or ".join(choices)


_TIMES = ("valid_from", "created_at", "valid_to", "used_at")
_TEXT = _is_text, "a text"
_NUMBER = _is_number, "a number from 0 on"
_TIME = _is_time, "a time with its zone, such as 2026-11-22T17:00:00+08:00"
_MAYBE_TIME = _is_time_or_none, f"{_TIME[1]}, or null"
_FIELDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "id": _NUMBER,
    "kind": _one_of(*get_args(Kind)),
    "scope": _TEXT,
    "text": _TEXT,
    "valid_from": _TIME,
    "subject_id": _TEXT,
    "speaker_id": _TEXT,
    "speaker_name": _TEXT,
    "conversation": _TEXT,
    "sources": (_are_numbers, "a list of numbers from 0 on"),
    "state": _one_of("searchable", "superseded", "expired"),
    "created_at": _TIME,
    "valid_to": _MAYBE_TIME,
    "superseded_by": (lambda value: value is None or _is_number(value), f"{_NUMBER[1]}, or null"),
    "pinned": (lambda value: isinstance(value, bool), "true or false"),
    "hits": _NUMBER,
    "used_at": _MAYBE_TIME,
    "decodable": _TEXT,
}
