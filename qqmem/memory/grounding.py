"""Whether a claim is borne out by the messages that it cites: what is not is dropped, whoever wrote it.

The rules are strict on purpose. A true fact that is dropped can still be found, since every message is remembered as it
is; a false one that is kept would be told as the truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from qqmem.memory.extract import Claim, Source
from qqmem.memory.reading import Reading, knows, plain, read

LONGEST_FACT = 60
"""Size (reading.py) of a fact: some 32 tokens."""

MOST_CITED = 4
"""More messages than this bear out a mood, not a fact."""

SHARE = 0.6
"""Least share of a fact's pairs of characters that occur in the messages cited. Of 60,000 pairs of messages of one
group chat, 0.008 % share so much by chance."""

_QUOTE = 3
"""Least pairs and words of a quotation."""

_SMALL_TALK = re.compile(
    "谢谢|你好|早安|晚安|早上好|晚上好|哈+|嘿+|知道|同意|收到|好|明白|表示|回复|回答|提问|询问|觉得|认为|说|问|答|笑|[的了是在有]|hello|hi|ok|thanks"
)
_ASKING = re.compile(
    r"[?？]|^\W*(?:谁|哪|什么|怎么|几点)|为什么|(?:吗|么|什么|谁|哪里|哪儿|多少|怎么样|怎样|如何|几点|呢)\s*[。.！!~～]*\s*$"
)
_OTHERS = re.compile(r"你|您|(?<!其)他(?!人)|她|\b(?:you|he|she|they|your|his|her|their)\b")
_FIRST = re.compile(r"我|咱|俺|\b(?:i|me|my|mine|we|our|us)\b")
_FIRST_OR_SECOND = re.compile(rf"{_FIRST.pattern}|你|您|\byou(?:r)?\b")
_PERSON = re.compile(f"{_FIRST.pattern}|{_OTHERS.pattern}")
_HEDGES = "可能 也许 或许 好像 似乎 听说 据说 大概 应该 打算 希望 想 如果 要是 假如 差点 以前 曾经 本来".split()
_ENGLISH_HEDGES = frozenset("if maybe perhaps might may could would should probably want hope used almost".split())
_ENGLISH_FILLERS = frozenset(
    "a an the is are was were be been am has have had will of to in at on for with from by and or that it its this "
    "his her hers their he she him them as who which named called does s".split()
)
_VAGUE = re.compile(
    "[它这那他她某有没不要想去来会能可应该再先说用]|大家|我们|咱们|人们|[今明昨后前]天|[今明去后]年|[上下本这]周|周[一二三四五六日末]|最近|现在|以后|之后|然后|但是|因为|所以"
    "|如果|需要|爸|妈|爷爷|奶奶|哥|姐|弟|妹|老公|老婆|儿子|女儿|家|自己|事实|消息|用户|对方|聊天"
)
_CLAUSE = re.compile(r"[^，,。！!？?；;、\n…~～]+[，,。！!？?；;、\n…~～]*")
_SELF = (
    (r"\bI\s+am\b|\bI['’]m\b", " is"),
    (r"\bI\s+have\b|\bI['’]ve\b", " has"),
    (r"\bI['’]ll\b", " will"),
    (r"\bmy\b|\bmine\b", "'s"),
    (r"\bI\b|\bme\b", ""),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A claim that holds.

    cited: the messages that bear it out. teller: the one that says it best. subject: the speaker named first, if any.
    """

    text: str
    cited: tuple[Source, ...]
    teller: Source
    subject: Source | None


@dataclass(frozen=True, slots=True)
class _Clause:
    """A part of a message. overlap: the pairs and words that it shares with the claim; closeness: their share of it.

    about: the plain text of the clause that says whom it is about: itself, or the last one before it that names people.
    """

    source: Source
    words: Reading
    about: str
    overlap: int
    closeness: float


def ground(claim: Claim, sources: Sequence[Source]) -> Fact | None:
    """The fact that a claim is, None if the messages that it cites do not bear it out.

    sources: all that the model was shown; a claim's numbers count them from 1.
    """
    if not 0 < len(claim.numbers) <= MOST_CITED or not all(0 < n <= len(sources) for n in claim.numbers):
        return None
    cited = [sources[n - 1] for n in claim.numbers]
    texts = [text for text in (claim.longer, claim.text) if text]
    facts = (_fact(text, these, sources) for text in texts for these in (cited, _quoted(text, sources)) if these)
    return next((fact for fact in facts if fact is not None), None)


def _quoted(text: str, sources: Sequence[Source]) -> list[Source]:
    """The one message that a text repeats: a small model does, but loses count of the numbers."""
    content = read(_people_in(plain(text), sources)[1])
    found = [one for one in sources if len(content.parts) >= _QUOTE and content.parts <= read(one.text).parts]
    return found if len(found) == 1 else []


def _fact(text: str, cited: Sequence[Source], everyone: Sequence[Source]) -> Fact | None:
    text = _in_third_person(text, cited)
    people = {plain(one.name): one for one in (*reversed(everyone), *reversed(cited))}
    named, rest = _people_in(plain(text), list(people.values()))
    content = read(rest)
    if not _says_something(content) or read(text).size > LONGEST_FACT:
        return None
    cited = [one for one in cited if _share_anything(content, read(one.text))]
    if not _occurs_in(content, cited) or not all(_has_part(one, cited) for one in named):
        return None
    clauses = _clauses_behind(content, cited, list(people.values()))
    strangers = [one for one in people.values() if one not in named]
    if not _agrees(content, clauses) or _is_about(strangers, clauses):
        return None
    teller = clauses[0].source
    subject = next((one for one in named if _has_part(one, [teller])), None)
    return Fact(text, tuple(cited), teller, subject) if subject or _opens_with_a_name(content, clauses[0]) else None


# ---- what it says ------------------------------------------------------------------------------------------------


def _in_third_person(text: str, cited: Sequence[Source]) -> str:
    """The text with the one who said it in place of "I", if there is only one."""
    text = text.rstrip("。.；;！! ").strip()
    teller = cited[0]
    if len({one.speaker for one in cited}) > 1:
        return text
    name, number = re.escape(teller.name), re.escape(teller.speaker)
    # As messages are shown: name(number)：...
    own = re.sub(rf"^(?:{name})?\s*(?:[(（]?{number}[)）]?)?\s*说?\s*[:：]\s*[\"“「]?", "", text)
    if own.startswith("我") and not re.search("我们|自我", own):
        return own.replace("我", teller.name)
    if re.match(r"(?:I|my)\b", own, re.IGNORECASE):
        for pattern, ending in _SELF:
            own = (teller.name + ending).join(re.split(pattern, own, flags=re.IGNORECASE))
        return own
    return re.sub(rf"{name}\s*[(（]{number}[)）]", lambda _: teller.name, text)


def _people_in(text: str, people: Sequence[Source]) -> tuple[list[Source], str]:
    """Who of them is named in a plain text, in order, and the text without their names."""
    found = dict[int, Source]()
    for one in sorted(people, key=lambda one: -len(one.name)):
        pattern = _name(one)
        if first := re.search(pattern, text):
            found[first.start()] = one
            # As long as it was, so that the places of the others stay.
            text = re.sub(pattern, lambda name: " " * len(name[0]), text)
    return [found[at] for at in sorted(found)], text


def _name(one: Source) -> str:
    """A pattern of a person's name, or number, in a plain text."""
    name = plain(one.name)
    edge = r"(?<![a-z0-9])", r"(?![a-z0-9])"
    shown = re.escape(name) if len(name) > 1 else rf"^{re.escape(name)}"
    return (
        rf"{edge[0] * name[:1].isascii()}{shown}{edge[1] * name[-1:].isascii()}|(?<!\d){re.escape(one.speaker)}(?!\d)"
    )


def _says_something(content: Reading) -> bool:
    """Whether it is a statement about somebody else than "me" or "you", and more than small talk."""
    told = _SMALL_TALK.sub("", content.plain)
    is_told = sum(c.isalnum() for c in told) >= 2
    return is_told and not _ASKING.search(content.plain) and not _FIRST_OR_SECOND.search(content.plain)


# ---- whether the messages say it ---------------------------------------------------------------------------------


def _share_anything(content: Reading, said: Reading) -> bool:
    return bool(content.pairs & said.pairs) or any(knows(said.words, word) for word in content.words)


def _occurs_in(content: Reading, cited: Sequence[Source]) -> bool:
    """Whether its numbers, its Latin words and most of its pairs of characters stand in the messages."""
    said = read("\n".join(one.text for one in cited))
    # Small English words come and go in English only: in a Chinese message they are another language.
    free = frozenset[str]() if said.pairs else _ENGLISH_FILLERS
    is_known = all(word in free or knows(said.words, word) for word in content.words)
    enough = len(content.pairs & said.pairs) >= SHARE * len(content.pairs)
    return bool(cited) and is_known and enough and content.numbers <= said.numbers


def _has_part(one: Source, cited: Sequence[Source]) -> bool:
    """Whether somebody said one of the messages, or is named in one."""
    return any(one.speaker == said.speaker or re.search(_name(one), plain(said.text)) for said in cited)


def _clauses_behind(content: Reading, cited: Sequence[Source], people: Sequence[Source]) -> list[_Clause]:
    """The clauses of the messages that say it, the best one first."""
    clauses = (clause for one in cited for clause in _clauses(content, one, people))
    best, *others = sorted(clauses, key=lambda one: (one.overlap, one.closeness), reverse=True)
    return [best, *(one for one in others if one.closeness > 0.5)]


def _clauses(content: Reading, source: Source, people: Sequence[Source]) -> Iterator[_Clause]:
    about = ""
    for clause in _CLAUSE.findall(source.text):
        said = read(clause)
        if _PERSON.search(said.plain) or _people_in(said.plain, people)[0]:
            about = said.plain
        overlap = len(said.parts & content.parts)
        yield _Clause(source, said, about, overlap, overlap / max(len(said.parts), 1))


def _agrees(content: Reading, clauses: Sequence[_Clause]) -> bool:
    """Whether the clauses state it: as certain, as negative, and not as a question."""
    said = [one.words for one in clauses]
    if any(_ASKING.search(one.plain) for one in said) or any(one.denies for one in said) != content.denies:
        return False
    hedges = (hedge for hedge in _HEDGES if any(hedge in one.plain for one in said))
    english = _ENGLISH_HEDGES.intersection(chain.from_iterable(one.words for one in said))
    return all(hedge in content.plain for hedge in hedges) and english <= content.words


def _is_about(strangers: Sequence[Source], clauses: Sequence[_Clause]) -> bool:
    """Whether the clauses speak of people whom the claim does not name, or of whom we cannot know."""
    return any(_OTHERS.search(one.about) or _people_in(one.about, strangers)[0] for one in clauses)


def _opens_with_a_name(content: Reading, clause: _Clause) -> bool:
    """Whether it begins with words of the message that may name something, and the one who spoke has no part in it."""
    text = content.plain.strip()
    if _VAGUE.match(text) or _PERSON.search(clause.about):
        return False
    if word := re.match("[a-z]+", text):
        return word[0] in read(clause.source.text).words - _ENGLISH_FILLERS
    return text[:2].isalpha() and text[:2] in plain(clause.source.text)
