"""What the model wrote, read as a reply: its text, its silence, its actions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from qqmem.engine.prompt import SILENCE
from qqmem.records import Action, Message

_SILENCES = (SILENCE, "<no_reply/>")

_DATE = r"\[\d{4}-\d\d-\d\d \d\d:\d\d\]"
_PREFIX = re.compile(_DATE + r"[^\n：]{0,60}?\(QQ:[^\n：)]{0,34}\)[：:]\s*")
"""What stands before every message in the history; models that have read it often write one themselves."""
_NEXT_MESSAGE = re.compile(r"\n\s*" + _PREFIX.pattern)
_PERHAPS_PREFIX = re.compile(rf"\[[\d :-]{{0,16}}|{_DATE}[^\n：]{{0,100}}")


class ReplyText:
    """A reply as it grows: stripped, without a copied prefix, and without what others might say next.

    What may yet turn out to be none of the reply is not shown.
    """

    def __init__(self) -> None:
        self._written = ""
        self._num_shown = 0

    @property
    def text(self) -> str:
        return _own(self._unprefixed())

    @property
    def is_over(self) -> bool:
        """Whether the model has begun to write messages of others: no more of the reply will come."""
        return _NEXT_MESSAGE.search(self._unprefixed()) is not None

    @property
    def is_silence(self) -> bool:
        """Whether the model declines to say anything: the mark alone, not a sentence that mentions it."""
        return self.text.lower() in _SILENCES

    def push(self, text: str) -> str:
        """Take what was written next. Returns what may be shown now."""
        self._written += text
        return self._show(self._decided())

    def close(self) -> str:
        """Nothing more will be written. Returns what was held back, and is not silence."""
        return "" if self.is_silence else self._show(self.text)

    def _unprefixed(self) -> str:
        written = self._written.lstrip()
        prefix = _PREFIX.match(written)
        return written[prefix.end() if prefix else 0 :]

    def _decided(self) -> str:
        """The text without an end that may yet become a prefix, or all of it the mark of silence."""
        text = self._unprefixed()
        lines, _, last = text.rpartition("\n")
        decided = _own(lines if _PERHAPS_PREFIX.fullmatch(last.lstrip()) else text)
        return "" if any(mark.startswith(decided.lower()) for mark in _SILENCES) else decided

    def _show(self, text: str) -> str:
        shown, self._num_shown = self._num_shown, len(text)
        return text[shown:]


def _own(text: str) -> str:
    others = _NEXT_MESSAGE.search(text)
    return text[: others.start() if others else None].rstrip()


def paragraphs(text: str) -> tuple[str, ...]:
    """The parts of a reply between empty lines; a fenced block stays whole, whatever lines it has."""
    parts, lines, is_fenced = list[str](), list[str](), False
    for line in text.split("\n"):
        is_fenced ^= line.lstrip().startswith("```")
        if line.strip() or is_fenced:
            lines.append(line.rstrip())
        elif lines:
            parts.append("\n".join(lines))
            lines = []
    return (*parts, "\n".join(lines)) if lines else tuple(parts)


def parse_actions(text: str, answered: Message) -> tuple[Action, ...]:
    """The valid actions among JSON objects that stand one after another; what is none is dropped.

    answered: the message that an action is about when it does not say.
    """
    read = (_action(body, answered) for body in _json_objects(text))
    return tuple(action for action in read if action is not None)


def _json_objects(text: str) -> Iterator[dict[str, object]]:
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            body, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield body
        at = text.find("{", end)


def _action(body: Mapping[str, object], answered: Message) -> Action | None:
    match body:
        case {"type": "EMOJI_LIKE", "emoji_id": bool()}:
            return None
        case {"type": "EMOJI_LIKE", "emoji_id": int(emoji)} if 0 <= emoji <= 0x10FFFF:
            message_id = _id(body.get("message_id"), answered.message_id)
            match body.get("target", "message"):
                case "message" | "user" as target:
                    return Action("EMOJI_LIKE", emoji_id=emoji, message_id=message_id, target=target)
        case {"type": "POKE"}:
            return Action("POKE", user_id=_id(body.get("user_id"), answered.sender.id), target="user")
    return None


def _id(value: object, default: str | None) -> str | None:
    return str(value) if isinstance(value, int | str) and value else default
