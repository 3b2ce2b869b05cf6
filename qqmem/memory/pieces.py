"""What people wrote, as words to remember: without the codes of pictures and faces, in pieces of a sentence or some."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

LONGEST_PIECE = 100
"""Characters. Encoders read a few dozen tokens well, and a recalled memory is read in one go."""

_MARKS = (
    "图片|表情|动画表情|商城表情|语音|视频|短视频|文件|位置|名片|红包|转发|合并转发|聊天记录|小程序|链接|分享|音乐|卡片|戳一戳|骰子|猜拳"
    "|表情回应"
    "|image|picture|photo|sticker|voice|audio|video|file|location"
)
_FORWARDED = r"\[转发的聊天记录\](?:.*?\[转发结束\])?"
"""What others have said elsewhere is none of the words of who forwards it."""
_CODE = re.compile(rf"\[CQ:[^\[\]]*\]|(?s:{_FORWARDED})|\[(?:{_MARKS})(?:[:： ][^\[\]\n]*)?\]", re.IGNORECASE)
_SENTENCE = re.compile(r".+?(?:[。！？!?；;…]+[”’」』）)\"]*|\n|\.(?=\s)|$)", re.DOTALL)
_CLAUSE = re.compile(r".+?(?:[，,、：:]+|\s|$)", re.DOTALL)


def words_of(text: str) -> str:
    """The text as it is, without [CQ:...] codes, markers such as [图片], and characters that cannot be stored."""
    kept = (c for c in _CODE.sub(" ", text) if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
    return re.sub(r"[ \t]{2,}", " ", "".join(kept)).strip()


def says_something(text: str) -> bool:
    """Whether there is a letter in it, of any script; faces, signs and numbers alone say nothing."""
    return any(c.isalpha() for c in text)


def pieces(text: str, longest: int = LONGEST_PIECE) -> list[str]:
    """Cut a text at sentence ends, then clauses, then anywhere. No piece is longer; only blanks at cuts are lost."""
    joined = [""]
    for part in _parts(text, longest):
        if len((joined[-1] + part).strip()) <= longest:
            joined[-1] += part
        else:
            joined.append(part)
    return [piece for one in joined if (piece := one.strip())]


def _parts(text: str, longest: int) -> Iterator[str]:
    for sentence in _SENTENCE.findall(text):
        if len(sentence.strip()) <= longest:
            yield sentence
            continue
        for clause in _CLAUSE.findall(sentence):
            yield from (clause[at : at + longest] for at in range(0, len(clause), longest))
