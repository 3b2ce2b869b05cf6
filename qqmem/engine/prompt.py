"""What the model reads: the system prompt, and as much of the conversation as fits."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from importlib import resources
from itertools import groupby
from pathlib import Path
from string import Formatter
from typing import Literal, Self

import yaml

from qqmem.engine.types import Tokenizer
from qqmem.errors import SettingsError

Kind = Literal["private", "group"]

SILENCE = "<no_reply>"
"""What the model writes, and reads in its history, where it says nothing."""

_BOT = frozenset({"bot_name"})
_VARIABLES: Mapping[str, frozenset[str]] = {
    "persona": _BOT,
    "rules": _BOT,
    "output": _BOT,
    "actions": _BOT,
    "context.private": _BOT | {"user_name", "user_id"},
    "context.group": _BOT | {"group_name", "group_id"},
    "guide": frozenset(),
    "nothing": frozenset(),
    "lead": frozenset(),
    "summary": frozenset({"text"}),
    "extract": _BOT,
    "compare": frozenset(),
}
"""The parts of a prompt file, and the variables that each may use."""
_ORDERED = ("persona", "rules", "output", "actions", "context")

_LONGEST_NAME = 32
_LOOKALIKES = str.maketrans("()（）[]【】［］:：", "❨❩❨❩⟦⟧⟦⟧⟦⟧∶∶")
_INDENT = "\n\u3000"
_CUT = "…"


@dataclass(frozen=True, slots=True)
class Prompts:
    """The parts of the system prompt, with every variable known. Made by `load`."""

    parts: Mapping[str, str]
    order: tuple[str, ...]

    @classmethod
    def load(cls, language: Literal["zh", "en"], override: Path | None, order: Sequence[str]) -> Self:
        """Read the built-in parts; those in the file `override` replace them one by one. Raises SettingsError."""
        builtin = resources.files("qqmem") / "prompts" / f"{language}.yaml"
        parts = _parts(builtin.read_text("utf-8"), "the built-in prompts")
        if override is not None:
            parts |= _parts(_read(override), str(override))
        for name in order:
            if name not in _ORDERED:
                raise SettingsError(f"Setting chat.prompt_order: there is no part {name}; {_nearest(name, _ORDERED)}")
        return cls(parts, tuple(order))

    def system(self, kind: Kind, variables: Mapping[str, str], *, silence: bool, actions: bool) -> str:
        """The system prompt.

        variables: all that the context of this kind may use. silence: the bot may say nothing (part `output`).
        actions: it may do things besides talking (part `actions`).
        """
        is_used = {"output": silence, "actions": actions}
        names = (name if name != "context" else f"context.{kind}" for name in self.order if is_used.get(name, True))
        texts = (self.parts[name] for name in names)
        # Names come from other people: they stay on one line.
        values = {name: clean_name(value) for name, value in variables.items()}
        return "\n\n".join(text for part in texts if (text := part.format_map(values).strip()))

    def phrase(self, name: str, **variables: str) -> str:
        """A part that is no part of the system prompt. variables: all that it may use; put in as they are."""
        return self.parts[name].format_map(variables).strip()


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"Setting chat.prompts: {path} cannot be read: {error}") from error


def _parts(text: str, source: str) -> dict[str, str]:
    """The checked parts of a prompt file by name, those of the context as `context.<kind>`."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{source} must hold prompt parts by name: {', '.join(_ORDERED)}.")
    return {name: _checked(name, part, source) for name, part in _flat(document)}


def _flat(document: Mapping[object, object]) -> Iterator[tuple[str, object]]:
    for name, part in document.items():
        if name == "context" and isinstance(part, dict):
            yield from ((f"context.{kind}", text) for kind, text in part.items())
        else:
            yield str(name), part


def _checked(name: str, part: object, source: str) -> str:
    """The text of a part. Raises SettingsError if the part or a variable in it is unknown."""
    allowed = _VARIABLES.get(name)
    if allowed is None:
        raise SettingsError(f"{source} has an unknown part {name}; {_nearest(name, _VARIABLES)}")
    if not isinstance(part, str):
        raise SettingsError(f"Part {name} in {source} must be text.")
    way_out = f"allowed are {', '.join(f'{{{v}}}' for v in sorted(allowed))}; write a plain brace as {{{{ or }}}}."
    try:
        fields = list(Formatter().parse(part))
    except ValueError as error:
        raise SettingsError(f"Part {name} in {source} has a stray brace ({error}); {way_out}") from error
    for _, field, spec, conversion in fields:
        if field is not None and (field not in allowed or spec or conversion):
            raise SettingsError(f"Part {name} in {source} uses {{{field}}}; {way_out}")
    return part


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."


def unasked(tokenizer: Tokenizer, guide: str) -> list[int]:
    """What stands before `<recall>` at the beginning of a turn; a model that does not think is led into a thought."""
    return tokenizer.encode(guide if tokenizer.thinks else f"<think>\n{guide}")


def clean_name(name: str) -> str:
    """A name that cannot end its line or form a prefix: no control or bidi characters, brackets or colons."""
    # U+200D joins emoji; all other invisible characters only deceive, but those that part words.
    seen = (c for c in name if c == "\u200d" or c.isspace() or unicodedata.category(c)[0] != "C")
    return " ".join("".join(seen).translate(_LOOKALIKES).split())[:_LONGEST_NAME].strip()


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the history.

    id: grows from one user message to the next. qq: the number of who said it.
    time: aware. text: of the assistant, "" is silence.
    """

    id: int
    role: Literal["user", "assistant"]
    name: str
    qq: str
    time: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """ids: tokens, up to where the assistant writes. anchor: for the prompt of the next turn."""

    ids: tuple[int, ...]
    anchor: int


class PromptBuilder:
    """Puts prompts together for one tokenizer. Safe to use from any thread.

    zone: of the times that the model reads; None is the machine's.
    """

    def __init__(self, tokenizer: Tokenizer, zone: tzinfo | None = None) -> None:
        self.tokenizer = tokenizer
        self._zone = zone
        # All of the history is counted for every prompt, and nearly all of it was counted before.
        self._count = lru_cache(maxsize=4096)(lambda text: len(tokenizer.encode(text)))
        self._turn_tokens = len(tokenizer.render([("system", ""), ("user", "")])) - len(
            tokenizer.render([("system", "")])
        )

    def build(self, system: str, said: Sequence[Said], budget: int, max_messages: int, anchor: int) -> Prompt:
        """Make the prompt of the messages from `anchor` on, which is at least one.

        budget: most tokens of history, that is of all but the system prompt. When the history outgrows it, or
        max_messages, its older part is dropped so that two thirds are left: the prompt then begins the same for
        many turns, and what the model has read of it can be reused. The newest message always stays, cut in the
        middle if it is too long by itself.
        """
        kept = [one for one in said if one.id >= anchor]
        if len(kept) > max_messages or sum(self._costs(kept)) > budget:
            kept = self._newest(kept, budget * 2 // 3, max_messages * 2 // 3)
            anchor = kept[0].id
        if len(kept) == 1 and sum(self._costs(kept)) > budget:
            kept = [self._shortened(kept[0], budget)]
        ids = self.tokenizer.render([("system", system), *self._turns(kept)])
        return Prompt(tuple(ids), anchor)

    def _newest(self, said: Sequence[Said], tokens: int, messages: int) -> list[Said]:
        """The most of the newest messages, beginning with a user's, that stays within both limits; at least one."""
        start = len(said) - 1
        left = tokens
        costs = list(self._costs(said))
        for index in reversed(range(max(0, len(said) - messages), len(said))):
            left -= costs[index]
            if left < 0:
                break
            if said[index].role == "user":
                start = index
        return list(said[start:])

    def _costs(self, said: Sequence[Said]) -> Iterator[int]:
        """Tokens that each message adds to the prompt, at most: its text, a line break, and the frame of a turn."""
        for index, one in enumerate(said):
            begins = index + 1 == len(said) or one.role == "assistant" or said[index + 1].role == "assistant"
            yield self._count(self._line(one)) + 1 + begins * self._turn_tokens

    def _turns(self, said: Sequence[Said]) -> Iterator[tuple[str, str]]:
        """Chat turns as (role, text): what users said in a row is one."""
        for role, group in groupby(said, key=lambda one: one.role):
            lines = [self._line(one) for one in group]
            if role == "user":
                yield role, "\n".join(lines)
            else:
                yield from ((role, line) for line in lines)

    def _line(self, one: Said) -> str:
        """A message as the model reads it. A line that begins with `[` in column 0 is ours, whatever people type."""
        if one.role == "assistant":
            return one.text or SILENCE
        qq = clean_name(one.qq)
        text = _INDENT.join(one.text.strip().splitlines())
        return f"[{self._clock(one.time)}] {clean_name(one.name) or qq}(QQ:{qq})：{text}"

    def _clock(self, time: datetime) -> str:
        try:
            local = time.astimezone(self._zone)
        except (OverflowError, ValueError):  # at the ends of the calendar
            local = time.astimezone(UTC)
        return local.replace(tzinfo=None).isoformat(" ", "minutes")

    def _shortened(self, one: Said, budget: int) -> Said:
        """The message with as much of its beginning and end as fits the budget."""
        fits, too_long = 0, len(one.text)
        while fits + 1 < too_long:
            size = (fits + too_long) // 2
            if sum(self._costs([_cut(one, size)])) <= budget:
                fits = size
            else:
                too_long = size
        return _cut(one, fits)


def _cut(one: Said, size: int) -> Said:
    head = (size + 1) // 2
    return replace(one, text=one.text[:head] + _CUT + one.text[len(one.text) - size + head :])
