"""The templates of the starter, and how they are filled. facts_life.yaml says how they are read."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import yaml

Language = Literal["zh", "en"]

SLOT = re.compile(r"\$([a-z]+)([2-4]?)(_b)?")
_CHOICE = re.compile(r"<([^<>]*)>")
_ASKS = re.compile(
    r"吗|什么|啥|哪(?!怕)|几[岁号点层楼个天分排]|多少|怎么(?!听)|谁(?![也都输发])|呢$|多大|是不是|来着|[没不么]$|\?"
)
_OPENED = tuple("诶话对哎哈嗨那嗯早晚你@[欸嘿亲突说“")
SAME = (("什么", "啥"), ("哪里", "哪儿"), ("怎么", "咋"), ("知道", "晓得"), ("刚才", "刚刚"), ("今天", "今儿"))
"""Words that people use for each other."""

_FACTS = ("life", "likes", "work", "things", "english")
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fact: templates of each use. answer: what a question asks for; every fact holds it."""

    name: str
    tell: tuple[str, ...]
    fact: tuple[str, ...]
    ask: tuple[str, ...]
    thought: tuple[str, ...]
    reply: tuple[str, ...]
    care: tuple[str, ...]
    topic: str
    answer: str

    @property
    def family(self) -> str:
        """What is held out together: the same kind in every language."""
        return self.name.partition(".")[0]

    @property
    def language(self) -> Language:
        return "en" if self.name.endswith(".en") else "zh"


class Talk(NamedTuple):
    """A kind of message that needs no memory. say: (message, its own reply or "")."""

    name: str
    say: tuple[tuple[str, str], ...]
    reply: tuple[str, ...]

    @property
    def language(self) -> Language:
        return "en" if self.name.endswith(".en") else "zh"


class Frame(NamedTuple):
    """A way to ask for, or think of, any topic. self_only: only whom it is about says so."""

    template: str
    self_only: bool


@dataclass(frozen=True, slots=True)
class Texts:
    """All templates. lists: entries by the name of their slot; `a=b` are two words that belong together.

    chats: their last question is answered by what stands before it. dialogues: no turn of them needs a memory.
    """

    lists: Mapping[str, tuple[str, ...]]
    kinds: tuple[Kind, ...]
    talks: tuple[Talk, ...]
    chats: Mapping[Language, tuple[tuple[str, ...], ...]]
    dialogues: Mapping[Language, tuple[tuple[str, ...], ...]]
    frames: Mapping[Language, tuple[Frame, ...]]
    thoughts: Mapping[Language, tuple[str, ...]]


@cache
def texts() -> Texts:
    """The templates that come with the package."""
    frames = _read("frames")
    return Texts(
        lists={name: _entries(str(text)) for name, text in _read("lists").items()},
        kinds=tuple(_kind(name, body) for part in _FACTS for name, body in _read(f"facts_{part}").items()),
        talks=tuple(_talk(name, body) for name, body in _read("negatives").items()),
        chats=_turns("chats"),
        dialogues=_turns("dialogues"),
        frames={
            language: (
                *(Frame(line, False) for line in _rows(body["anyone"])),
                *(Frame(line, True) for line in _rows(body["self"])),
            )
            for language, body in frames.items()
        },
        thoughts={language: _rows(body["thought"]) for language, body in frames.items()},
    )


def _read(name: str) -> dict[Any, Any]:
    path = resources.files("qqmem.train") / "starter_data" / f"{name}.yaml"
    document: dict[Any, Any] = yaml.safe_load(path.read_text("utf-8"))
    return document


def _turns(name: str) -> dict[Language, tuple[tuple[str, ...], ...]]:
    return {language: tuple(tuple(line.split(" / ")) for line in _rows(text)) for language, text in _read(name).items()}


def _rows(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _entries(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in (text.split(",") if "," in text else text.split()))


def _kind(name: str, body: Mapping[str, str]) -> Kind:
    many = {use: _rows(body[use]) for use in ("tell", "fact", "ask", "thought", "reply", "care")}
    return Kind(name, **many, topic=body["topic"], answer=str(body["answer"]))


def _talk(name: str, body: Mapping[str, str]) -> Talk:
    pairs = (line.partition(" => ") for line in _rows(body["say"]))
    return Talk(name, tuple((say, reply) for say, _, reply in pairs), _rows(body["reply"]))


Slots = dict[str, str]
"""What slots are filled with, by name; grows as more of them are met."""


class Words:
    """Fills templates by chance."""

    def __init__(self, lists: Mapping[str, Sequence[str]], chance: random.Random) -> None:
        self._lists = lists
        self._chance = chance

    def fill(self, template: str, known: Slots) -> str:
        """The text of a template. known: slots with a value; those that have none yet are drawn and put there."""
        text = _CHOICE.sub(lambda match: self._chance.choice(match[1].split("|")), template)
        return SLOT.sub(lambda match: self._value(match[1], match[2], match[3] or "", known), text)

    def _value(self, name: str, number: str, second: str, known: Slots) -> str:
        slot = name + number
        if slot not in known:
            taken = {value for slot, value in known.items() if slot.rstrip("234") in (name, "who")}
            first, _, other = self._draw(name, taken).partition("=")
            known[slot], known[f"{slot}_b"] = first, other
        return known[slot + second]

    def _draw(self, name: str, taken: set[str]) -> str:
        for _ in range(_TRIES):
            # Each slot of an entry by itself: digits that follow each other are not all the same.
            entry = SLOT.sub(lambda match: self._draw(match[1], set()), self._chance.choice(self._lists[name]))
            if entry.partition("=")[0] not in taken:
                break
        return entry

    def said(self, text: str, language: Language) -> str:
        """A message as people type it. What it is for does not matter, only how it looks: style tells nothing."""
        if language == "en":
            return text if self._chance.random() < 0.7 else text.rstrip("?.").lower()
        for word, other in SAME:
            if self._chance.random() < 0.2:
                text = text.replace(word, other)
        if len(text) > 5 and not text.startswith(_OPENED) and self._chance.random() < 0.2:
            text = self.fill("$opening", {}) + text
        if text[-1] in "？！。…）~":
            return text
        ends = ("", "", "？", "？", "?") if _ASKS.search(text) else ("", "", "", "。", "！", self.fill("$bye", {}))
        return text + self._chance.choice(ends)
