"""What a memory may be, and when two texts are the same. Pure."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import fields
from datetime import datetime

from qqmem.errors import InvalidRequest
from qqmem.memory.scope import Scope
from qqmem.memory.types import Memory, NewMemory

MAX_CHARS = 2_000
"""Longest text of a memory."""


def draft(new: NewMemory, now: datetime) -> Memory:
    """What is to be stored, as a record without id. Raises InvalidRequest: empty, too long, no such scope, no text."""
    given = {field.name: getattr(new, field.name) for field in fields(NewMemory)}
    given["sources"] = tuple(sorted(set(new.sources)))
    return checked(Memory(id=0, state="searchable", created_at=now, **given))


def checked(memory: Memory) -> Memory:
    """The record itself. Raises InvalidRequest if it cannot be stored."""
    Scope.parse(memory.scope)
    check_text(memory.text)
    for short in (memory.subject_id, memory.speaker_id, memory.speaker_name, memory.conversation, memory.decodable):
        _check_characters(short)
    return memory


def check_text(text: str) -> None:
    """Raises InvalidRequest if a memory cannot have this text."""
    if not text.strip():
        raise InvalidRequest("A memory needs a text; write what is to be remembered.")
    if len(text) > MAX_CHARS:
        raise InvalidRequest(f"A memory has at most {MAX_CHARS:,} characters; split it into several.")
    _check_characters(text)


def _check_characters(text: str) -> None:
    # SQLite would cut a text at a NUL, and cannot store half a character.
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidRequest("The memory holds characters that are no text; take them out.")


def digest(scope: str, text: str) -> str:
    """Of the text without differences of width, case, spaces and closing marks; the same text of others has another."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    told = plain.rstrip(" 。.!~…") or plain
    return hashlib.sha256(f"{Scope.parse(scope).holder}\n{told}".encode()).hexdigest()
