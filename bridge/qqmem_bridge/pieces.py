"""A long reply as messages of a length that QQ takes. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from qqmem_bridge.messages import mended

_WHOLE = re.compile(r"```.*?(?:```|\Z)|(?:https?|ftp)://[^\s<>\"'，。；！？、（）【】《》]+", re.DOTALL)
"""What is not cut where it fits into one message: blocks of code, addresses."""
_BREAKS = (
    re.compile(r"\n[ \t]*\n+"),
    re.compile(r"\n"),
    re.compile(r"[。！？!?…]+[」』”’）)]*|[.;；](?=\s)"),
    re.compile(r"[，,、：:]|\s"),
)
"""Where to cut, the best first; behind the match."""
_JOINERS = "\u200d\ufe0f\ufe0e\u20e3"


def pieces(parts: Sequence[str], longest: int = 1200, most: int = 4) -> tuple[list[str], list[str]]:
    """Messages of at most `longest` characters, at most `most` of them; and what the last of them would have to hold.

    Each part is a message where that is few enough; else neighbours share one. Where that is not enough either, the
    last is cut with "…", and the second list has it and all that follows, uncut. Nothing is cut inside a block of code,
    an address or a character made of several, if that fits into one message.
    """
    short = [piece for part in parts if part.strip() for piece in _split(mended(part).strip(), longest)]
    if len(short) > most:
        short = _joined(short, longest)
    if len(short) <= most:
        return short, []
    last = short[most - 1]
    return [*short[: most - 1], f"{last[: _seam(last, longest - 1)].rstrip()}…"], short[most - 1 :]


def _joined(short: Sequence[str], longest: int) -> list[str]:
    found: list[str] = []
    for piece in short:
        if found and len(found[-1]) + 1 + len(piece) <= longest:
            found[-1] += f"\n{piece}"
        else:
            found.append(piece)
    return found


def _split(text: str, longest: int) -> Iterator[str]:
    while len(text) > longest:
        at = _cut(text, longest)
        if piece := text[:at].rstrip():
            yield piece
        text = text[at:].lstrip("\n ") if text[:at].strip() else text[at:]
    if text.strip():
        yield text


def _cut(text: str, longest: int) -> int:
    """Where to cut a text that is too long: 1 to `longest`."""
    whole = [(span.start(), span.end()) for span in _WHOLE.finditer(text)]
    whole = [(start, end) for start, end in whole if end - start <= longest]

    def free(at: int) -> bool:
        return not any(start < at < end for start, end in whole)

    for separator in _BREAKS:
        ends = [found.end() for found in separator.finditer(text, 0, longest) if free(found.end())]
        if ends and ends[-1] >= longest // 3:
            return ends[-1]
    straddling = [start for start, end in whole if start < longest < end and start > 0]
    return straddling[0] if straddling else _seam(text, longest)


def _seam(text: str, at: int) -> int:
    """The nearest place at or before `at` between two characters as people see them."""
    for seam in range(min(at, len(text)), max(0, at - 16), -1):
        if seam == len(text) or not (_joins(text[seam]) or text[seam - 1] == "\u200d"):
            return seam
    return at


def _joins(char: str) -> bool:
    return char in _JOINERS or unicodedata.combining(char) > 0 or "\U0001f3fb" <= char <= "\U0001f3ff"
