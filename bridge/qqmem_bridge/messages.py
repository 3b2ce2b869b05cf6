"""A raw OneBot message as the bridge sees it. Tolerant: QQ's side changes without notice.

Pure: no clock, no socket.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qqmem_bridge.transport import Event, Segment

_MOST_NAME = 60
_MOST_TEXT = 8000
"""Characters of one message that are handed on."""
_CQ = re.compile(r"\[CQ:([^,\[\]]+)((?:,[^,=\[\]]+=[^,\[\]]*)*)\]")
FORWARDED = "[转发的聊天记录]"
NOBODY: Mapping[str, str] = {}
_PLACEHOLDERS = {
    "record": "[语音]",
    "video": "[视频]",
    "forward": FORWARDED,
    "node": FORWARDED,
    "dice": "[骰子]",
    "rps": "[猜拳]",
    "poke": "[戳一戳]",
    "location": "[位置]",
    "contact": "[名片]",
    "music": "[音乐]",
    "xml": "[卡片]",
    "miniapp": "[小程序]",
    "onlinefile": "[文件]",
    "flashtransfer": "[文件]",
    "keyboard": "",
    "reply": "",
}


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message of somebody.

    chat: `private:<qq>` or `group:<gid>`. Ids are strings. name: nickname, card: name in the group; both cleaned.
    temporary: from a stranger by way of a group.
    """

    self_id: str
    chat: str
    message_id: str
    user_id: str
    name: str
    card: str
    role: str
    group_name: str
    time: float
    segments: tuple[Segment, ...]
    temporary: bool = False

    @property
    def in_group(self) -> bool:
        return self.chat.startswith("group:")

    @property
    def quoted(self) -> str | None:
        """The message that this one quotes."""
        return next((str(data(s).get("id")) for s in self.segments if s["type"] == "reply" and data(s).get("id")), None)

    @property
    def ats(self) -> list[str]:
        """Whom it @s, "all" for everybody."""
        return [str(data(s).get("qq")) for s in self.segments if s["type"] == "at"]

    @property
    def bare(self) -> str:
        """Its text alone: what a command is looked for in."""
        return plain(self.segments).strip()


def parse(event: Event, now: float) -> Incoming | None:
    """The message of an event; None if it lacks what a message needs."""
    user, message_id = identifier(event.get("user_id")), identifier(event.get("message_id"), negative=True)
    group = identifier(event.get("group_id"))
    in_group = event.get("message_type") == "group"
    if not user or not message_id or (in_group and not group):
        return None
    sender = event.get("sender")
    if not isinstance(sender, Mapping):
        sender = {}
    return Incoming(
        self_id=identifier(event.get("self_id")),
        chat=f"group:{group}" if in_group else f"private:{user}",
        message_id=message_id,
        user_id=user,
        name=clean_name(sender.get("nickname")),
        card=clean_name(sender.get("card")),
        role=str(sender.get("role") or "") if sender.get("role") in ("owner", "admin", "member") else "",
        group_name=clean_name(event.get("group_name")),
        time=_time(event.get("time"), now),
        segments=tuple(segments_of(event.get("message"))),
        temporary=not in_group and event.get("sub_type") == "group",
    )


def identifier(value: object, *, negative: bool = False) -> str:
    """A QQ number as a string, from a number or a string; empty if it is none."""
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    digits = text.removeprefix("-") if negative else text
    return text if digits.isascii() and digits.isdigit() and len(digits) <= 20 and digits.strip("0") else ""


def clean_name(value: object) -> str:
    """A display name on one line, without characters that hide or reorder others; names are labels, never keys."""
    if not isinstance(value, str):
        return ""
    kept = (" " if char.isspace() else char for char in value)
    text = "".join(char for char in kept if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co"))
    return " ".join(text.split())[:_MOST_NAME]


def _time(value: object, now: float) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value <= now + 86400 else now


def iso(seconds: float) -> str:
    """ISO 8601, with zone."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def data(segment: Segment) -> Mapping[str, Any]:
    """What a segment holds; empty if it is not as it should be."""
    found = segment.get("data")
    return found if isinstance(found, Mapping) else {}


def segments_of(message: object) -> Iterator[Segment]:
    """The segments of a message in array or string format; what is no segment is left out."""
    if isinstance(message, str):
        yield from _decoded(message)
    for segment in message if isinstance(message, list) else [message]:
        if isinstance(segment, dict) and isinstance(segment.get("type"), str):
            yield segment


def _decoded(text: str) -> Iterator[Segment]:
    """A string with CQ codes."""
    at = 0
    for code in _CQ.finditer(text):
        if code.start() > at:
            yield {"type": "text", "data": {"text": _unescaped(text[at : code.start()])}}
        pairs = (pair.partition("=") for pair in code[2].split(",") if pair)
        yield {"type": code[1], "data": {key: _unescaped(value) for key, _, value in pairs}}
        at = code.end()
    if at < len(text):
        yield {"type": "text", "data": {"text": _unescaped(text[at:])}}


def _unescaped(text: str) -> str:
    for escape, char in (("&#91;", "["), ("&#93;", "]"), ("&#44;", ","), ("&amp;", "&")):  # & last
        text = text.replace(escape, char)
    return text


def plain(segments: Sequence[Segment]) -> str:
    """The text segments alone."""
    return "".join(str(data(s).get("text") or "") for s in segments if s["type"] == "text")


def readable(incoming: Incoming, names: Mapping[str, str]) -> str:
    """The message as text: without the @ of the bot, other @s as `@name(qq)`, what is no text in brackets.

    names: display names by QQ number.
    """
    text = mended(readable_segments(incoming.segments, incoming.self_id, names)).strip()
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


def readable_segments(segments: Sequence[Segment], self_id: str = "", names: Mapping[str, str] = NOBODY) -> str:
    """As readable, of the segments alone."""
    return "".join(_readable(segment, self_id, names) for segment in segments)


def _readable(segment: Segment, self_id: str, names: Mapping[str, str]) -> str:
    found = data(segment)
    match segment["type"]:
        case "text" | "markdown":
            return str(found.get("text") or found.get("content") or "")
        case "at":
            return _at(found, self_id, names)
        case "face" | "mface":
            raw = found.get("raw")
            return _bracketed(found.get("summary") or (raw.get("faceText") if isinstance(raw, Mapping) else ""), "表情")
        case "image":
            return _bracketed(found.get("summary"), "表情" if str(found.get("sub_type")) == "1" else "图片")
        case "file":
            return _titled("文件", found.get("file") or found.get("name"))
        case "share":
            return _titled("链接", found.get("title"))
        case "json":
            return _card(found.get("data"))
        case kind:
            return _PLACEHOLDERS.get(kind, f"[{clean_name(kind) or '消息'}]")


def _at(found: Mapping[str, Any], self_id: str, names: Mapping[str, str]) -> str:
    target = str(found.get("qq") or "")
    if target == self_id:
        return ""
    if target == "all":
        return "@全体成员 "
    name = names.get(target) or clean_name(found.get("name"))
    return f"@{name}({target}) " if name else f"@{clean_name(target)} "


def _bracketed(label: object, otherwise: str) -> str:
    name = clean_name(label).strip("[]/ ")
    return f"[{name or otherwise}]"


def _titled(kind: str, title: object) -> str:
    return f"[{kind} {name}]" if (name := clean_name(title).replace("[", "(").replace("]", ")")) else f"[{kind}]"


def _card(text: object) -> str:
    """A card by its prompt, such as `[QQ小程序]哔哩哔哩`."""
    try:
        card = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return "[卡片]"
    return _titled("卡片", card.get("prompt") if isinstance(card, Mapping) else "")


def mended(text: str) -> str:
    """Halves of surrogate pairs joined, or replaced where the other half is missing; no NUL."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", "")
