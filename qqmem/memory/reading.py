"""A text taken apart, so that two can be compared: pairs of characters, words, numbers, denials."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_FILLERS = str.maketrans("", "", "的了是在和也都就很着过呢啊吧吗嘛哦呀又还把被给")
"""Characters that a sentence may lose or gain without saying something else."""
_DENIALS = re.compile(r"[不没别无未勿]|\b(?:no|not|never|none|nobody|nothing)\b|n['’]t\b")
_NO_DENIALS = re.compile(
    "不错|差不多|不过|对不起|不好意思|不仅|不但|不管|不论|不客气|要不|没事|没关系|特别|别人|区别|级别|分别|性别|告别|别墅|无论|未来"
)
_NUMBER = re.compile(r"\d+(?:[.:/\-]\d+)*|[零〇一二两三四五六七八九十百千万亿半]+")
_LATIN = "a-zà-ÿ"
_WORD = re.compile(rf"[{_LATIN}]+")
_RUN = re.compile(rf"[^\W\d_{_LATIN}]+")


def plain(text: str) -> str:
    """One width, one case."""
    return unicodedata.normalize("NFKC", text).casefold()


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text is made of.

    plain: the text in one width and case. pairs: neighbouring characters of scripts that are written without blanks,
    fillers left out. words: of Latin letters. numbers: in digits or Chinese. denies: whether something is negated.
    """

    plain: str
    pairs: frozenset[str]
    words: frozenset[str]
    numbers: frozenset[str]
    denies: bool

    @property
    def parts(self) -> frozenset[str]:
        return self.pairs | self.words

    @property
    def size(self) -> int:
        """A character of those scripts is 1, a Latin word 2, a number 1: about the tokens of a model, and half more."""
        others = sum(len(run) for run in _RUN.findall(self.plain))
        return others + 2 * len(_WORD.findall(self.plain)) + len(re.findall(r"\d+", self.plain))


def read(text: str) -> Reading:
    """Take a text apart."""
    text = plain(text)
    runs = _RUN.findall(text.translate(_FILLERS))
    return Reading(
        plain=text,
        pairs=frozenset(run[at : at + 2] for run in runs for at in range(max(len(run) - 1, 1))),
        words=frozenset(_WORD.findall(text)),
        numbers=frozenset(_NUMBER.findall(text)),
        denies=bool(_DENIALS.search(_NO_DENIALS.sub("", text))),
    )


def knows(words: frozenset[str], word: str) -> bool:
    """Whether a word occurs in a text, in any of its forms (likes, liked, liking)."""
    stem = re.sub(r"(?:ies|ied|es|ed|ing|s|d|y|e)$", "", word) if len(word) > 3 else word
    return word in words or any(one.startswith(stem) and len(one) <= len(stem) + 4 for one in words if len(stem) >= 3)
