"""The recall state machine of one sequence: from `<recall>` to `</recall>`, without tensors.

    writing ──<recall>──▶ asking ──its state──▶ waiting
    waiting ──nothing found: the fixed span and </recall>──────────────▶ writing
            ──splice: pad, stored text and </recall> in one prefill────▶ writing
            ──decodable: pad──▶ checking ──to its end, or spliced──────▶ writing

In `checking` the model writes the memory itself, each token compared with the stored text before it is read. At the
first that departs, the rest of the stored text is spliced: what the model has read is the stored text in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qqmem.engine.types import Ask, Found, Mode, Recalling, RecallTokens, Vector, Want

RECALL = ("<recall>", "</recall>", "<|memory_pad|>")
"""The tokens, in the order of RecallTokens."""

Phase = Literal["writing", "asking", "waiting", "checking"]


@dataclass(frozen=True, slots=True)
class Feed:
    """What the sequence reads next.

    value: for the first of the tokens. text: what of them is written on the turn's own channel.
    """

    tokens: list[int]
    value: Vector | None = None
    text: str = ""


class Recall:
    """Where a sequence is with its recalls.

    opened: its prompt ends in `<recall>`. encode: plain text to tokens.
    """

    def __init__(
        self, tokens: RecallTokens, recalling: Recalling, encode: Callable[[str], list[int]], *, opened: bool
    ) -> None:
        self.phase: Phase = "asking" if opened else "writing"
        self.mode: Mode = "none"
        """Of the last recall."""
        self.text = ""
        """The memory of the last recall."""
        self._tokens = tokens
        self._recalling = recalling
        self._encode = encode
        self._opened = opened
        self._is_in_thought = False
        self._num = int(opened)
        self._expected: list[int] = []

    @property
    def want(self) -> Want:
        """What the next step is asked for."""
        return {"writing": "token", "asking": "query", "waiting": "nothing", "checking": "likeliest"}[self.phase]  # type: ignore[return-value]

    def banned(self, *, may_ask: bool, ends_thought: bool = False) -> tuple[int, ...]:
        """Tokens that may not come next.

        may_ask: the sequence is at a place where a recall may begin. ends_thought: it has just written `</think>`.
        """
        open_, close, pad = self._tokens
        if self.phase == "checking":
            return (open_, pad)
        may_ask = may_ask and self._recalling.sampled and self._num < self._recalling.limit
        banned = (close, pad) if may_ask else self._tokens
        thought = self._recalling.thought
        return (*banned, thought) if ends_thought and thought is not None else banned

    def opens(self, token: int) -> bool:
        """Whether a sampled token begins a recall."""
        if token != self._tokens.open:
            return False
        self.phase = "asking"
        self._num += 1
        return True

    def ask(self, query: Vector, written: str) -> Ask:
        """The state of `<recall>` is known; nothing goes on before `answer`."""
        self.phase = "waiting"
        self._is_in_thought = written.rfind("<think>") > written.rfind("</think>")
        return Ask(query, written)

    def answer(self, found: Found | None) -> Feed:
        """What to read for the memory, or for none."""
        self.mode, self.text = "none", ""
        if found is None:
            # A thought that a model has begun by itself goes nowhere without its memory, either.
            after = self._recalling.after_nothing if self._opened or self._is_in_thought else ""
            return self._closed(self._encode(self._recalling.nothing), after)
        self.text = found.text
        text = self._encode(found.text)
        if found.decodable and found.value is not None:
            self.phase = "checking"
            self._expected = [*text, self._tokens.close]
            return Feed([self._tokens.pad], found.value)
        self.mode = "spliced"
        # Without a vector of its own there is nothing to inject, and the text stands alone.
        before = [] if found.value is None else [self._tokens.pad]
        return self._closed([*before, *text], self._after, found.value)

    def check(self, token: int) -> Feed:
        """The model wrote a token of the memory by itself."""
        if token != self._expected[0]:
            self.mode = "spliced"
            return self._closed(self._expected[:-1], self._after)
        del self._expected[0]
        if self._expected:
            return Feed([token])
        self.mode = "decoded"
        return self._closed([], self._after)

    @property
    def _after(self) -> str:
        return self._recalling.after if self._opened else ""

    def _closed(self, tokens: list[int], after: str, value: Vector | None = None) -> Feed:
        self.phase, self._opened = "writing", False
        return Feed([*tokens, self._tokens.close, *self._encode(after)], value, after)
