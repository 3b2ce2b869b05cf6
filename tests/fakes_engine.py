"""Fakes of the engine's Protocols, torch-free: a tokenizer of characters, and a model that recites."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qqmem.engine.types import Request, Row

END = 0x110000
"""End of turn."""
SYSTEM, USER, ASSISTANT, CLOSE = range(END + 1, END + 5)
_ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}


class CharDetokenizer:
    def step(self, token: int) -> str:
        return chr(token)

    def flush(self) -> str:
        return ""


class CharTokenizer:
    """One token a character; the control tokens lie above Unicode, so no text can form one."""

    def __init__(self, *, thinks: bool = False) -> None:
        self.thinks = thinks

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def render(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        ids: list[int] = []
        for role, content in messages:
            ids += [_ROLES[role], *self.encode(content), CLOSE]
        return [*ids, ASSISTANT]

    def detokenizer(self) -> CharDetokenizer:
        return CharDetokenizer()


def text_of(ids: Sequence[int]) -> str:
    """What a person would read in a prompt, control tokens as ⟨role⟩."""
    marks = {SYSTEM: "⟨system⟩", USER: "⟨user⟩", ASSISTANT: "⟨assistant⟩", CLOSE: "⟨/⟩", END: "⟨end⟩"}
    return "".join(marks.get(i) or chr(i) for i in ids)


@dataclass(eq=False)
class Recital:
    request: Request
    script: list[int]
    length: int = 0


@dataclass
class ScriptedModel:
    """Recites `script(prompt as text)`, one character a step, then ends its turn. Loud when misused.

    gate: when given, each step that samples waits for one release of it, so that a test decides the pace.
    began: set when a request has begun.
    """

    script: Callable[[str], str] = lambda prompt: "好的。"
    tokenizer: CharTokenizer = field(default_factory=CharTokenizer)
    max_context: int = 100_000
    end_tokens: frozenset[int] = frozenset({END})
    kv_bytes: int = 0
    gate: threading.Semaphore | None = None
    began: threading.Event = field(default_factory=threading.Event)
    prompts: list[str] = field(default_factory=list)
    live: set[Recital] = field(default_factory=set)
    kept: list[str] = field(default_factory=list)
    widest: int = 0
    most_tokens: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        self._thread = threading.get_ident()

    def _check(self) -> None:
        assert threading.get_ident() == self._thread, "the model belongs to its thread"
        assert not self.closed, "used after close"

    def start(self, request: Request) -> Recital:
        self._check()
        prompt = text_of(request.prompt)
        self.prompts.append(prompt)
        script = self.script(prompt)  # may raise: a request that fails alone
        recital = Recital(request, [*self.tokenizer.encode(script), END])
        self.live.add(recital)
        self.began.set()
        return recital

    def step(self, rows: Sequence[Row]) -> list[int | None]:
        self._check()
        assert rows, "an empty step"
        self.widest = max(self.widest, len(rows))
        self.most_tokens = max(self.most_tokens, sum(len(row.tokens) for row in rows))
        if self.gate is not None and any(row.sample for row in rows):
            self.gate.acquire()
        return [self._advance(row) for row in rows]

    def _advance(self, row: Row) -> int | None:
        recital = row.running
        assert isinstance(recital, Recital)
        assert recital in self.live, "stepped after release"
        whole = [*recital.request.prompt, *recital.script]
        assert list(row.tokens) == whole[recital.length : recital.length + len(row.tokens)], "fed wrong tokens"
        recital.length += len(row.tokens)
        if not row.sample:
            return None
        return whole[recital.length]

    def release(self, running: object, keep: str | None) -> None:
        self._check()
        assert isinstance(running, Recital)
        self.live.remove(running)
        if keep is not None:
            self.kept.append(keep)

    def close(self) -> None:
        self._check()
        assert not self.live, "closed with live sequences"
        self.closed = True
