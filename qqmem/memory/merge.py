"""Whether a fact says what is known already, or something newer than it.

Certain cases are decided by rule, and the model is asked only between them; where it does not answer clearly, both
facts are kept.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from qqmem.memory.extract import Answer
from qqmem.memory.reading import Reading, plain, read
from qqmem.memory.types import Memory, NewMemory

Verdict = Literal["same", "newer", "different"]
"""What a new fact is to one that is known: nothing new; true in its place; or another fact."""

Compare = Callable[[str, str], Awaitable[Verdict]]
"""Asks the model about (what is known, what is new)."""

SAME = 0.7
"""Likeness from which a fact that has no character of its own is the same. Chosen on examples (test_merge.py)."""

LIKE = 0.45
"""Likeness from which the model is asked. Below, two facts share the person's name and a word at most."""

_MOST_ASKED = 2

_VERDICTS: dict[str, Verdict] = {
    "相同": "same",
    "更新": "newer",
    "不同": "different",
    "same": "same",
    "newer": "newer",
    "different": "different",
}
_VERDICT = re.compile(rf"\W*({'|'.join(_VERDICTS)})(?!\w)")

_CHANGES = re.compile(r"搬|改|换|现在|如今|不再|已经|变|跳槽|离职|\b(?:now|moved|no longer|changed|instead|anymore)\b")
_SINGLE = re.compile(r"生日|身高|体重|手机号|电话|邮箱|\d+岁|birthday|phone|\d+ years old")
"""What somebody has one of."""
_TOPICS = (
    re.compile(r"住|搬|\b(?:lives?|living|moved?|moving)\b"),
    re.compile(r"工作|上班|任职|入职|跳槽|\b(?:works?|working)\b"),
    *(re.compile(word) for word in _SINGLE.pattern.split("|")),
)
_TIMES = re.compile("现在|如今|目前|已经|今年|去年|明年|今天|昨天|最近|刚刚?|[上下本这]个?[周月]|从")


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a new fact. known: the one that says the same. replaces: the ids of those that it supersedes."""

    known: Memory | None = None
    replaces: tuple[int, ...] = ()


async def weigh(new: NewMemory, known: Sequence[Memory], compare: Compare) -> Decision:
    """Decide about a fact. known: memories that may be like it; those of another scope or subject are left alone."""
    ours = read(new.text)
    rivals = [(one, read(one.text)) for one in known if is_rival(new, one)]
    rivals.sort(key=lambda rival: likeness(ours, rival[1]), reverse=True)
    replaces = list[int]()
    num_asked = 0
    for one, theirs in rivals:
        verdict = judge(ours, theirs)
        if verdict is None and num_asked < _MOST_ASKED:
            num_asked += 1
            verdict = _guarded(await compare(one.text, new.text), ours, theirs)
        if verdict == "same":
            return Decision(known=one)
        if verdict == "newer" and one.valid_from <= new.valid_from:
            replaces.append(one.id)
    return Decision(replaces=tuple(replaces))


def is_rival(new: NewMemory, one: Memory) -> bool:
    """Whether two memories can be about the same thing at all."""
    return (one.kind, one.scope, one.subject_id, one.state) == ("fact", new.scope, new.subject_id, "searchable")


def judge(new: Reading, known: Reading) -> Verdict | None:
    """What the rules say; None if they do not know."""
    like = likeness(new, known)
    if _marks(new) == _marks(known) and like >= SAME and _letters(new) <= _letters(known):
        return "same"
    if _changes(new.plain, known.plain):
        return "newer"
    return None if like >= LIKE else "different"


def likeness(a: Reading, b: Reading) -> float:
    """Dice's coefficient of what they are made of, in [0, 1]."""
    total = len(a.parts) + len(b.parts)
    return 2 * len(a.parts & b.parts) / total if total else 0.0


def verdict(answer: Answer) -> Verdict:
    """What the model said, if it said just that; all else is "different", and both are kept."""
    found = _VERDICT.match(plain(answer.text))
    return _VERDICTS[found[1]] if found and answer.complete else "different"


def _guarded(said: Verdict, new: Reading, known: Reading) -> Verdict:
    """A model may overlook that numbers, names or a denial differ: then it is not the same."""
    return "different" if said == "same" and _marks(new) != _marks(known) else said


def _marks(text: Reading) -> tuple[object, ...]:
    return text.numbers, text.words, text.denies


def _letters(text: Reading) -> set[str]:
    return set("".join(text.pairs))


def _changes(new: str, known: str) -> bool:
    """Whether both tell the same trait of the same one, and the new one that it has changed, or there is only one."""
    if not (_CHANGES.search(new) or _SINGLE.search(new)):
        return False
    found = ((topic.search(new), topic.search(known)) for topic in _TOPICS)
    return any(
        ours and theirs and _holder(new[: ours.start()]) == _holder(known[: theirs.start()]) for ours, theirs in found
    )


def _holder(text: str) -> frozenset[str]:
    """Whose trait it is: what stands before it, without words of time and places."""
    return read(re.split("[在到去]", _TIMES.sub("", text))[0]).parts
