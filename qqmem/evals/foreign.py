"""What people say that has nothing to do with anybody's memories: public talk and tasks of other kinds.

smilechat: Qiu et al. 2023, arXiv:2305.00450. kdconv: Zhou et al. 2020, arXiv:2004.04100. alpaca-zh: the Chinese
instructions that LLaMA-Factory shows (Taori et al. 2023, Stanford Alpaca). A folder holds the files as published.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from qqmem.errors import InvalidRequest


class Said(NamedTuple):
    """text: of a user. dialogue: the name of where it was said."""

    text: str
    dialogue: str


def said(folder: Path) -> list[Said]:
    """All that users say in a folder that is named as its set. Raises InvalidRequest."""
    read = READERS[folder.name]
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jsonl"))
        found = [
            Said(text, f"{path.stem}:{dialogue}")
            for path in paths
            for dialogue, text in read(path.read_text("utf-8"))
            if text.strip()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            f"{folder} does not hold {folder.name} as it was published ({error!r}); remove it to do without."
        ) from error
    if not found:
        raise InvalidRequest(f"{folder} holds no file of {folder.name}; remove it to do without.")
    return found


def _smilechat(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(filter(str.strip, text.splitlines())):
        yield from ((number, turn["content"]) for turn in json.loads(line)["messages"] if turn["role"] == "user")


def _kdconv(text: str) -> Iterator[tuple[int, str]]:
    for number, dialogue in enumerate(json.loads(text)):
        yield from ((number, turn["message"]) for turn in dialogue["messages"][::2])  # of the one who begins


def _alpaca(text: str) -> Iterator[tuple[int, str]]:
    for number, task in enumerate(json.loads(text)):
        yield number, f"{task['instruction']}\n{task['input']}".strip()


READERS: Mapping[str, Callable[[str], Iterator[tuple[int, str]]]] = {
    "smilechat": _smilechat,
    "kdconv": _kdconv,
    "alpaca-zh": _alpaca,
}
"""By name of the folder: yields (number of the dialogue, what its user says), given a file's text."""
