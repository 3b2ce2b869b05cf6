"""Ordinary conversations that are trained on beside the memories, so that the model stays what it is.

They come from a file of the person's, or the model writes them itself; these hold nothing of anybody, and are kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qqmem.abreast import abreast
from qqmem.errors import PromptTooLong
from qqmem.memory.extract import Answer, Ask

Chat = list[dict[str, str]]
"""Messages, each with role and content."""

_ROLES = ("system", "user", "assistant")
_PAIRS = (
    ("instruction", ("output", "answer")),
    ("query", ("response", "answer")),
    ("question", ("answer", "response")),
)
_HELD_OUT = 8
"""One in so many conversations is kept for the gate."""
_SENTENCE = re.compile(r".*(?:[。！？!?…~～\n]|\.(?=\s|$))[”’」』\"')）]*", re.DOTALL)
_MOST_FAULTS = 50
_MOST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Practice:
    """chats: what there is. faults: of the file, a sentence each, the first of `num_faults`."""

    chats: Sequence[Chat]
    faults: Sequence[str] = ()
    num_faults: int = 0


def read(file: Path, most: int, seed: int) -> Practice:
    """Conversations drawn from a file of JSON lines; a broken line is a fault, and the others are read. Blocks."""
    draw = random.Random(seed)
    chats: list[Chat] = []
    faults: list[str] = []
    num_read = num_faults = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    chat = parse(line)
                except ValueError as error:
                    num_faults += 1
                    faults += [f"line {number}: {error}"][: _MOST_FAULTS - len(faults)]
                    continue
                num_read += 1
                # Of any number of lines, each stays with the same chance.
                place = len(chats) if len(chats) < most else draw.randrange(num_read)
                chats[place : place + 1] = [chat] if place < most else []
    except OSError as error:
        return Practice((), (f"train.sft_path cannot be read: {error.strerror}",), 1)
    if not chats:
        faults.append("train.sft_path holds no conversation")
    return Practice(chats, faults, num_faults)


def parse(line: bytes) -> Chat:
    """One line as a conversation. Raises ValueError."""
    if len(line) > _MOST_BYTES:
        raise ValueError("longer than a MiB")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("not valid JSON") from error
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    if "messages" in found:
        return _messages(found["messages"])
    for question, answers in _PAIRS:
        answer = next((found[name] for name in answers if name in found), None)
        if question in found and answer is not None:
            more = f"\n{found['input']}" if found.get("input") else ""
            asked = {"role": "user", "content": f"{_text(found[question])}{more}"}
            return [asked, {"role": "assistant", "content": _text(answer)}]
    raise ValueError("has no messages, no instruction with output, and no query with response")


def _messages(found: object) -> Chat:
    if not isinstance(found, list) or not found:
        raise ValueError("messages is no list, or empty")
    chat = [{"role": _role(one), "content": _text(one.get("content"))} for one in found]
    if not any(one["role"] == "assistant" for one in chat):
        raise ValueError("nobody answers")
    return chat


def _role(message: Any) -> str:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise ValueError("a message has no role system, user or assistant")
    return str(message["role"])


def _text(found: object) -> str:
    if not isinstance(found, str) or not found.strip():
        raise ValueError("a text is missing or empty")
    return found


def split(chats: Sequence[Chat], seed: int) -> tuple[list[Chat], list[Chat]]:
    """Those to train on, and those that are held out for the gate: one in eight, and one at least of two or more."""
    num = max(1, len(chats) // _HELD_OUT) if len(chats) > 1 else 0
    held_out = set(random.Random(seed).sample(range(len(chats)), num))
    kept: tuple[list[Chat], list[Chat]] = ([], [])
    for place, chat in enumerate(chats):
        kept[place in held_out].append(chat)
    return kept


def whole(answer: Answer) -> str:
    """An answer up to its last whole sentence, if it was broken off; all of it if there is none."""
    text = answer.text.strip()
    if answer.complete:
        return text
    sentences = _SENTENCE.match(text)
    return sentences.group().strip() if sentences else text


class Writer:
    """Has the model write conversations, once for each model and language. system: the prompt under which it does.

    at_once: how many are written together.
    """

    def __init__(
        self, ask: Ask, words: Mapping[str, Any], system: str, folder: Path, model: str, at_once: int = 4
    ) -> None:
        self._ask = ask
        self._at_once = at_once
        self._openings: Sequence[str] = words["practice"]
        self._plain: Sequence[Sequence[str]] = words["plain"]
        self._system = system
        key = json.dumps([model, system, list(self._openings)]).encode()
        self._file = folder / f"own-{hashlib.sha256(key).hexdigest()[:12]}.jsonl"

    async def chats(self, tell: Callable[[int, int], None]) -> Sequence[Chat]:
        """What the model wrote, now or in an earlier run. tell: how many are done, of how many. Raises EngineError."""
        if kept := await asyncio.to_thread(self._kept):
            return kept
        answers = await abreast(self._answer, self._openings, self._at_once, tell)
        written = zip(self._openings, answers, strict=True)
        chats = [self._chat(opening, answer) for opening, answer in written if answer]
        if not chats:
            return [self._chat(asked, answer) for asked, answer in self._plain]
        await asyncio.to_thread(self._keep, chats)
        return chats

    async def _answer(self, opening: str) -> str:
        with suppress(PromptTooLong):
            return whole(await self._ask(self._system, opening))
        return ""

    def _chat(self, asked: str, answer: str) -> Chat:
        told = (("system", self._system), ("user", asked), ("assistant", answer))
        return [{"role": role, "content": text} for role, text in told if text]

    def _kept(self) -> list[Chat]:
        try:
            return [parse(line) for line in self._file.read_bytes().splitlines()]
        except (OSError, ValueError):
            return []

    def _keep(self, chats: Sequence[Chat]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        aside = self._file.with_suffix(".new")
        aside.write_text("".join(json.dumps({"messages": chat}, ensure_ascii=False) + "\n" for chat in chats), "utf-8")
        aside.replace(self._file)
