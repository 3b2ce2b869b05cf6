"""Fakes of the engine's Protocols, torch-free: a tokenizer of characters, and a model that recites."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qqmem.engine.recall import RECALL
from qqmem.engine.types import Opening, RecallTokens, Request, Row, Traits, Vector

END = 0x110000
"""End of turn."""
SYSTEM, USER, ASSISTANT, CLOSE = range(END + 1, END + 5)
OPEN, SHUT, PAD = range(END + 5, END + 8)
_ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}


class CharDetokenizer:
    def step(self, token: int) -> str:
        return chr(token)

    def flush(self) -> str:
        return ""


class CharTokenizer:
    """One token a character; the control tokens lie above Unicode, so no text can form one."""

    recall: RecallTokens | None = RecallTokens(OPEN, SHUT, PAD)

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
    marks |= dict(zip((OPEN, SHUT, PAD), RECALL, strict=True))
    return "".join(marks.get(i) or chr(i) for i in ids)


def written(text: str) -> list[int]:
    """What a model writes: a character is a token, and `<recall>` is one."""
    head, *rest = text.split(RECALL[0])
    return [*map(ord, head), *(token for part in rest for token in (OPEN, *map(ord, part)))]


@dataclass(eq=False)
class Recital:
    """script: what it has yet to write. read: what it was fed."""

    request: Request
    script: list[int]
    read: list[int] = field(default_factory=list)
    values: list[Vector] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.read)


@dataclass
class ScriptedModel:
    """Recites `script(prompt as text)`, one character a step, then ends its turn. Loud when misused.

    by_heart: what it writes by itself when it is given a memory's vector.
    gate: when given, each step that samples waits for one release of it, so that a test decides the pace.
    began: set when a request has begun. openings: what each token was to be decided by.
    """

    script: Callable[[str], str] = lambda prompt: "好的。"
    by_heart: str = ""
    tokenizer: CharTokenizer = field(default_factory=CharTokenizer)
    max_context: int = 100_000
    end_tokens: frozenset[int] = frozenset({END})
    hidden_size: int = 2
    kv_bytes: int = 0
    traits: Traits = field(default_factory=lambda: Traits("cpu", "float32", int8=False, threads=1, parameters=0))
    gate: threading.Semaphore | None = None
    began: threading.Event = field(default_factory=threading.Event)
    prompts: list[str] = field(default_factory=list)
    openings: list[Opening | None] = field(default_factory=list)
    live: set[Recital] = field(default_factory=set)
    kept: list[str] = field(default_factory=list)
    widest: int = 0
    most_tokens: int = 0
    closed: bool = False
    release_used: Path | None = None
    device: str | None = None

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
        recital = Recital(request, [*written(script), END])
        self.live.add(recital)
        self.began.set()
        return recital

    def step(self, rows: Sequence[Row]) -> list[int | Vector | None]:
        self._check()
        assert rows, "an empty step"
        self.widest = max(self.widest, len(rows))
        self.most_tokens = max(self.most_tokens, sum(len(row.tokens) for row in rows))
        self.openings += [row.opening for row in rows if row.want == "token"]
        if self.gate is not None and any(row.want == "token" for row in rows):
            self.gate.acquire()
        return [self._advance(row) for row in rows]

    def _advance(self, row: Row) -> int | Vector | None:
        recital = row.running
        assert isinstance(recital, Recital)
        assert recital in self.live, "stepped after release"
        prompt, tokens = recital.request.prompt, list(row.tokens)
        if recital.length < len(prompt):
            assert tokens == list(prompt[recital.length : recital.length + len(tokens)]), "fed a wrong prompt"
        recital.read += tokens
        if row.value is not None:
            assert tokens[0] == PAD, "only the pad takes a vector"
            recital.values.append(row.value)
        match row.want:
            case "nothing":
                return None
            case "query" | "state":
                return np.array([recital.length, tokens[-1]], np.float32)
            case "likeliest":
                since = recital.length - max(i for i, token in enumerate(recital.read) if token == PAD) - 1
                return [*map(ord, self.by_heart), SHUT][since]
        token = recital.script.pop(0)
        assert token not in row.banned, "wrote what is banned"
        return token

    def release(self, running: object, keep: str | None) -> None:
        self._check()
        assert isinstance(running, Recital)
        self.live.remove(running)
        if keep is not None:
            self.kept.append(keep)

    def use_release(self, folder: Path | None) -> None:
        self._check()
        self.release_used = folder

    def move(self, device: str | None) -> None:
        self._check()
        self.device = device

    def close(self) -> None:
        self._check()
        assert not self.live, "closed with live sequences"
        self.closed = True
