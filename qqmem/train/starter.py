"""A seeded generator of people, what they tell, what is asked of it later, and talk that needs no memory.

Nobody in it exists. Its texts are templates (starter_texts.py), filled from lists. Whole kinds can be held out: they
appear in no training file, and make up the evaluation set.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qqmem.errors import InvalidRequest
from qqmem.train.records import plain
from qqmem.train.starter_texts import Kind, Language, Slots, Talk, Texts, Words, texts

Record = dict[str, Any]
"""A line of a JSON lines file."""

_ENGLISH = 0.1
_MESSAGES = 0.25
_BY_OTHERS = 0.4
_ABOUT_THE_WORLD = 0.8
_PER_KIND = 8
"""Facts of each held-out kind, and messages of each held-out kind of talk, in the evaluation set."""
_TRIES = 20

_I = re.compile(r"我|咱|(?<!\$)\b(?:I|my|me)\b")
_ME = re.compile(r"\$m[ey](?![a-z])")


@dataclass(frozen=True, slots=True)
class Person:
    """name: as it is shown. where: the scope of what this person tells."""

    name: str
    qq: str
    ta: str
    where: str
    language: Language


@dataclass(slots=True)
class Starter:
    """What a run directory needs; in `evaluation` messages of the kinds held out, with `needs_memory`."""

    memories: list[Record] = field(default_factory=list)
    negatives: list[Record] = field(default_factory=list)
    sft: list[Record] = field(default_factory=list)
    evaluation: list[Record] = field(default_factory=list)


def generate(*, seed: int, facts: int, hold_out: int, part: int = 1) -> Starter:
    """Make all records. Raises InvalidRequest.

    facts: how many memories; there are three and a half times as many messages that need none. hold_out: kinds of fact
    that are only in the evaluation set, and with them half as many kinds of talk. part: of what one seed has to tell;
    each has other people, the evaluation set is the same in all.
    """
    source = texts()
    families = sorted({kind.family for kind in source.kinds})
    if facts < 1:
        raise InvalidRequest("A starter needs at least one fact.")
    if not 0 <= hold_out <= len(families) // 2:
        raise InvalidRequest(f"Of {len(families)} kinds of fact at most {len(families) // 2} can be held out.")
    chance = random.Random(seed)
    held = set(chance.sample(families, hold_out)) | set(chance.sample([t.name for t in source.talks], hold_out // 2))
    kinds = {kind for kind in source.kinds if kind.family in held}
    talks = {talk for talk in source.talks if talk.name in held}
    chance = random.Random(f"{seed}/{part}")
    writer = _Writer(source, chance)
    shown = [kind for kind in source.kinds if kind not in kinds]
    other = [talk for talk in source.talks if talk not in talks]
    memories = writer.memories(shown, facts)
    negatives = [*writer.tellings(shown, facts * 4 // 5), *writer.talk(other, facts * 2)]
    negatives += writer.dialogues(facts * 4 // 5)
    chance.shuffle(negatives)
    sft = [*writer.chats(facts // 5), *map(_chat, writer.tellings(shown, facts // 3))]
    sft += map(_chat, writer.talk(other, max(1, facts // 2)))
    chance.shuffle(sft)
    judge = _Writer(source, random.Random(f"{seed}/evaluation"))
    evaluation = judge.evaluation([k for k in source.kinds if k in kinds], [t for t in source.talks if t in talks])
    return Starter(memories, negatives, sft, evaluation)


def _chat(negative: Record) -> Record:
    turns = (("user", negative["text"]), ("assistant", negative["reply"]))
    return {"messages": [{"role": role, "content": text} for role, text in turns], "topic": negative["topic"]}


class _Writer:
    """Writes records; no two of one sort are the same, and no question is asked of two kinds."""

    def __init__(self, source: Texts, chance: random.Random) -> None:
        self._source = source
        self._chance = chance
        self._words = Words(source.lists, chance)
        self._asked: dict[str, str] = {}
        self._told: set[str] = set()
        self._said: set[str] = set()

    def memories(self, kinds: Sequence[Kind], num: int) -> list[Record]:
        """Facts of as many people as it takes, each with a few of different kinds."""
        records: list[Record] = []
        while len(records) < num:
            person = self._person()
            own = [kind for kind in kinds if kind.language == person.language]
            for kind in self._chance.sample(own, min(len(own), self._chance.randint(3, 10), num - len(records))):
                records.append(self._memory(kind, person) | {"id": len(records) + 1})
        return records

    def tellings(self, kinds: Sequence[Kind], num: int) -> Iterator[Record]:
        """People who tell facts: no memory is needed to answer them."""
        for _ in range(num * _TRIES):
            if num == 0:
                return
            kind = self._chance.choice(kinds)
            known = self._known(self._person(kind.language))
            text = self._words.said(self._one(kind.tell, known), kind.language)
            if self._fresh(text):
                num -= 1
                yield {"text": text, "reply": self._one(kind.care, known), "topic": f"telling:{kind.name}"}

    def talk(self, talks: Sequence[Talk], num: int) -> Iterator[Record]:
        """Talk, tasks and questions that need no memory, of all kinds alike as long as they have something new."""
        for _ in range(num * _TRIES):
            if num == 0:
                return
            talk = self._chance.choice(talks)
            say, reply = self._chance.choice(talk.say)
            known: Slots = {}
            text = self._words.said(self._words.fill(say, known), talk.language)
            if self._fresh(text):
                num -= 1
                yield {"text": text, "reply": self._one((reply,) if reply else talk.reply, known), "topic": talk.name}

    def chats(self, num: int) -> Iterator[Record]:
        """Chats whose last question is answered by what stands before it."""
        for _ in range(num):
            yield {"messages": self._turns(self._source.chats, self._language()), "topic": "chat"}

    def dialogues(self, num: int) -> Iterator[Record]:
        """Later turns of talk about the world, or about what has just been said: no memory is needed to answer them."""
        for _ in range(num * _TRIES):
            if num == 0:
                return
            source = self._source.dialogues if self._chance.random() < _ABOUT_THE_WORLD else self._source.chats
            language = self._language()
            turns = self._turns(source, language)
            at = self._chance.randrange(2, len(turns) - 1, 2)
            text = self._words.said(turns[at]["content"], language)
            if self._fresh(" / ".join([*(turn["content"] for turn in turns[:at]), text])):
                num -= 1
                reply = turns[at + 1]["content"]
                yield {"text": text, "reply": reply, "topic": "dialogue", "before": turns[:at]}

    def _language(self) -> Language:
        return "en" if self._chance.random() < _ENGLISH else "zh"

    def _turns(self, source: Mapping[Language, Sequence[Sequence[str]]], language: Language) -> list[Record]:
        known: Slots = {}
        lines = [self._words.fill(line, known) for line in self._chance.choice(source[language])]
        roles = ("user", "assistant") * len(lines)
        return [{"role": role, "content": text} for role, text in zip(roles, lines, strict=False)]

    def evaluation(self, kinds: Sequence[Kind], talks: Sequence[Talk]) -> list[Record]:
        """Messages of kinds that were held out; asked in their own ways only, not in those of any kind."""
        records: list[Record] = []
        for kind in kinds:
            for _ in range(_PER_KIND):
                person = self._person(kind.language)
                memory = self._memory(kind, person)
                asked = [cue for cue in (*memory["cues"], *memory["held_out"]) if cue["kind"] == "question"]
                own = [cue for cue in asked if not cue["framed"]] or asked
                records += [
                    {"text": cue["text"], "needs_memory": True, "topic": kind.name, "memory": memory["text"]}
                    for cue in own
                    if self._fresh(cue["text"])
                ]
            records += [one | {"needs_memory": False} for one in self.tellings([kind], _PER_KIND)]
        for talk in talks:
            records += [one | {"needs_memory": False} for one in self.talk([talk], _PER_KIND)]
        return records

    # --- one memory

    def _memory(self, kind: Kind, person: Person) -> Record:
        for _ in range(_TRIES):
            known = self._known(person)
            fact = self._one(kind.fact, known)
            told = self._words.said(self._one(kind.tell, known), kind.language)
            asked = self._questions(kind, person, known)
            if fact not in self._told and len(asked) > 2:
                break
        self._told.add(fact)
        held_out = asked.pop(self._chance.randrange(len(asked)))
        is_message = self._chance.random() < _MESSAGES
        source = {"kind": "source", "text": told, "speaker": person.name}
        thought = {"kind": "thought", "text": self._thought(kind, known), "speaker": person.name}
        return {
            "text": f"{person.name}：{told}" if is_message else fact,
            "subject_id": person.qq,
            "speaker_name": person.name,
            "kind": "message" if is_message else "fact",
            "scope": person.where,
            "cues": [source, *asked, thought],
            "held_out": [held_out],
            "topic": kind.name,
            "answer": self._words.fill(kind.answer, known),
        }

    def _questions(self, kind: Kind, person: Person, known: Slots) -> list[Record]:
        """Four questions in different ways, or fewer; one of them in a frame that fits any kind."""
        frame = self._chance.choice(self._source.frames[kind.language])
        ways = [(ask, False) for ask in self._chance.sample(kind.ask, 3)] + [(frame.template, frame.self_only)]
        answer = self._words.fill(kind.answer, known).casefold()
        asked: list[Record] = []
        for way, self_only in ways:
            template = way.replace("$topic", kind.topic)
            about = not self_only and self._by_others(template)
            slots = known | (self._named(person) if about else {})
            text = self._words.fill(template, slots)
            known |= {name: value for name, value in slots.items() if name not in known}
            if answer in text.casefold() or self._asked.setdefault(plain(text), kind.family) != kind.family:
                continue
            reply = self._one(kind.reply, slots)
            speaker = self._person(kind.language).name if about else person.name
            framed = way == frame.template
            said = self._words.said(text, kind.language)
            asked.append(
                {"kind": "question", "text": said, "reply": _capital(reply), "speaker": speaker, "framed": framed}
            )
        return asked

    def _by_others(self, template: str) -> bool:
        """Whether somebody else asks: always where `$me` cannot be I, never where it must be, else by chance."""
        if not _ME.search(template):
            return False
        if "$ta" in template or _I.search(template):
            return True
        return self._chance.random() < _BY_OTHERS

    def _thought(self, kind: Kind, known: Slots) -> str:
        shared = tuple(line.replace("$topic", kind.topic) for line in self._source.thoughts[kind.language])
        named = known | {"me": known["who"], "my": f"{known['who']}'s"}
        return self._one(shared if self._chance.random() < 0.3 else kind.thought, named)

    # --- parts

    def _person(self, language: Language | None = None) -> Person:
        chance = self._chance
        language = language or ("en" if chance.random() < _ENGLISH else "zh")
        woman = chance.random() < 0.5
        full = "$surname$woman" if woman else "$surname$man"
        ways = ("$enname", "$nicken") if language == "en" else (full, full, "$nick", "$nick", "$pal", "$nicken")
        qq = str(chance.randint(10**7, 4 * 10**9))
        where = f"user:{qq}" if chance.random() < 0.6 else f"member:{qq}@{chance.randint(10**8, 10**9)}"
        return Person(self._words.fill(chance.choice(ways), {}), qq, "她" if woman else "他", where, language)

    @staticmethod
    def _known(person: Person) -> Slots:
        return {"who": person.name, "ta": person.ta, "me": "我", "you": "你", "my": "my", "your": "your"}

    @staticmethod
    def _named(person: Person) -> Slots:
        return {"me": person.name, "you": person.name, "my": f"{person.name}'s", "your": f"{person.name}'s"}

    def _one(self, templates: Sequence[str], known: Slots) -> str:
        return self._words.fill(self._chance.choice(templates), known)

    def _fresh(self, text: str) -> bool:
        if plain(text) in self._said:
            return False
        self._said.add(plain(text))
        return True


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text.isascii() else text


def write_starter(folder: Path, *, seed: int, facts: int, hold_out: int, part: int = 1) -> None:
    """Write memories.jsonl, negatives.jsonl and sft.jsonl to a run directory, and what is held out to evaluation.jsonl.

    Raises InvalidRequest. facts, hold_out, part: as of `generate`.
    """
    starter = generate(seed=seed, facts=facts, hold_out=hold_out, part=part)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("memories", "negatives", "sft", "evaluation"):
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in getattr(starter, name))
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
