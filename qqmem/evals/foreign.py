"""What people say that has nothing to do with anybody's memories: public talk and tasks of other kinds.

smilechat: Qiu et al. 2023, arXiv:2305.00450. kdconv: Zhou et al. 2020, arXiv:2004.04100. alpaca-zh: the Chinese
instructions that LLaMA-Factory shows (Taori et al. 2023, Stanford Alpaca). A folder holds the files as published.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Literal, NamedTuple

from qqmem.errors import InvalidRequest
from qqmem.evals.data import Turn


class Said(NamedTuple):
    """text: of a user. dialogue: the name of where it was said. before: what was said before it, oldest first."""

    text: str
    dialogue: str
    before: tuple[Turn, ...] = ()


def said(folder: Path) -> list[Said]:
    """All that users say in a folder that is named as its set. Raises InvalidRequest."""
    read = READERS[folder.name]
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jsonl"))
        found = [
            Said(turn.text, f"{path.stem}:{number}", tuple(turns[:n]))
            for path in paths
            for number, turns in enumerate(read(path.read_text("utf-8")))
            for n, turn in enumerate(turns)
            if turn.role == "user" and turn.text.strip()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            f"{folder} does not hold {folder.name} as it was published ({error!r}); remove it to do without."
        ) from error
    if not found:
        raise InvalidRequest(f"{folder} holds no file of {folder.name}; remove it to do without.")
    return found


def _smilechat(text: str) -> Iterator[list[Turn]]:
    for line in filter(str.strip, text.splitlines()):
        said = (turn for turn in json.loads(line)["messages"] if turn["role"] in ("user", "assistant"))
        yield [Turn(turn["role"], turn["content"]) for turn in said]


def _kdconv(text: str) -> Iterator[list[Turn]]:
    """Two people; the user is the one who begins."""
    for dialogue in json.loads(text):
        roles: Iterator[Literal["user", "assistant"]] = cycle(("user", "assistant"))
        yield [Turn(role, turn["message"]) for role, turn in zip(roles, dialogue["messages"], strict=False)]


def _alpaca(text: str) -> Iterator[list[Turn]]:
    for task in json.loads(text):
        yield [Turn("user", f"{task['instruction']}\n{task['input']}".strip())]


READERS: Mapping[str, Callable[[str], Iterator[list[Turn]]]] = {
    "smilechat": _smilechat,
    "kdconv": _kdconv,
    "alpaca-zh": _alpaca,
}
"""By name of the folder: yields the dialogues of a file's text."""
