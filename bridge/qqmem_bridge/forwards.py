"""Forwarded chats, which QQ folds into one message: read as text when they come, made of what is overlong. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qqmem_bridge.messages import FORWARDED, Incoming, clean_name, data, mended, readable_segments, segments_of
from qqmem_bridge.transport import Segment

_MOST_MESSAGES = 50
_MOST_TEXT = 3000
"""Characters."""
_END = "[转发结束]"


def folded(message: Incoming) -> str | None:
    """The id of the forwarded chat that a message holds; None if it holds none, or its content came along."""
    for segment in message.segments:
        if segment["type"] == "forward" and not isinstance(data(segment).get("content"), list):
            return str(data(segment).get("id") or "") or None
    return None


def unfolded(message: Incoming, answer: object = None) -> str:
    """A forwarded chat as lines, between marks that nobody else can write there; empty if it cannot be read.

    answer: what QQ's side says of its id, if the content did not come along.
    """
    content: object = answer.get("messages") if isinstance(answer, Mapping) else None
    for segment in message.segments:
        if segment["type"] == "forward" and isinstance(data(segment).get("content"), list):
            content = data(segment)["content"]
    if not isinstance(content, list) or not content:
        return ""
    lines, size = list[str](), 0
    for line in _lines(content):
        size += len(line)
        if size > _MOST_TEXT or len(lines) >= _MOST_MESSAGES:
            lines.append("…")
            break
        lines.append(line)
    return "\n".join([FORWARDED, *lines, _END])


def _lines(content: Sequence[object]) -> Iterator[str]:
    for one in content:
        if not isinstance(one, Mapping):
            continue
        held = data(dict(one)) if one.get("type") == "node" else one
        sender = held.get("sender")
        name = sender.get("card") or sender.get("nickname") if isinstance(sender, Mapping) else held.get("nickname")
        said = readable_segments(list(segments_of(held.get("message") or held.get("content"))))
        if text := _unmarked(mended(said)):
            yield f"> {_unmarked(clean_name(name)) or '某人'}：{text}"


def _unmarked(text: str) -> str:
    """On one line, without the marks between which a forwarded chat stands."""
    for mark in (FORWARDED, _END):
        # In other brackets: its bare words in one more pair of these would be a mark again.
        text = text.replace(mark, f"（{mark.strip('[]')}）")
    return " ".join(text.split())


def nodes(texts: Sequence[str], user: str, name: str) -> list[Segment]:
    """The messages of a forwarded chat in which the bot says all of these."""
    return [{"type": "node", "data": {"user_id": user, "nickname": name, "content": [_text(text)]}} for text in texts]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "data": {"text": text}}
