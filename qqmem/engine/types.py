"""What the parts of the engine say to each other: requests, pieces, and the Protocols behind which they are faked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Channel = Literal["think", "memory", "reply", "action"]
"""think: not for the reader of the reply. memory: a recalled text. action: the body of an `<action>` element."""

Vector = NDArray[np.float32]
"""[hidden] of the model."""

Mode = Literal["spliced", "decoded", "none"]
"""How a memory came in: its stored text was read, or written by the model and found equal; or there was none."""

FinishReason = Literal["stop", "length", "time"]
"""stop: the model ended its turn, or wrote a stop string. length: out of tokens. time: out of time."""

TURN, BACKGROUND = 0, 1
"""Priorities of a request: a person waits for it, or nobody does."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn from the logits.

    temperature: 0 is greedy, and then only the penalties count.
    top_k: 0 is off. top_p: in (0, 1], 1 is off. min_p: in [0, 1], 0 is off.
    repetition_penalty: divides positive logits and multiplies negative ones of every token in prompt and
        reply (CTRL, arXiv 1909.05858); 1 is off.
    presence_penalty: subtracted from the logits of every token in the reply; 0 is off.
    seed: None draws one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    seed: int | None = None


class RecallTokens(NamedTuple):
    """Ids of `<recall>`, `</recall>` and `<|memory_pad|>`."""

    open: int
    close: int
    pad: int


@dataclass(frozen=True, slots=True)
class Ask:
    """The model asks for a memory. query: the head's projection of its state. written: its turn so far."""

    query: Vector
    written: str


@dataclass(frozen=True, slots=True)
class Found:
    """The memory that fits. value: a unit vector of the model's space, None if it has none yet.

    decodable: the model may write the text itself from the vector, as long as it writes just this text.
    """

    text: str
    value: Vector | None
    decodable: bool = False


class Opening(NamedTuple):
    """How a turn begins with a recall by itself: the token that comes first, and by how many nats it has to lead.

    Whether to recall is decided, not drawn: the token comes if its logit is ahead of every other by more than `margin`,
    at whatever temperature, and otherwise it does not come.
    """

    token: int
    margin: float


@dataclass(frozen=True, slots=True)
class Recalling:
    """How a request recalls. A prompt that ends in `<recall>` opens with a recall.

    find: awaited by whoever reads the stream. limit: most recalls. sampled: the model may ask by itself.
    nothing: what it reads when nothing is found.
    after: text that is forced behind the recall with which the prompt ends. after_nothing: if it finds nothing, and
    behind any that finds nothing inside a `<think>` that was written.
    opening: how a release opens a turn with one; None leaves that to the sampling, as everywhere behind the beginning.
    thought: the token that begins a thought of a model that does not think by itself. It is led through one: behind a
    `</think>` comes the reply, and no other thought.
    """

    find: Callable[[Ask], Awaitable[Found | None]]
    nothing: str
    limit: int = 3
    sampled: bool = True
    after: str = ""
    after_nothing: str = ""
    opening: Opening | None = None
    thought: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One text to write.

    prompt: token ids, at least one.
    max_new_tokens: counts new tokens only.
    conversation: whose KV to continue and to keep; None keeps none.
    stop: strings that end the text and are not part of it.
    channel: where the text begins; "think" if the prompt has already opened the thinking.
    time_limit: seconds from submission, waiting included.
    recall: None writes without memories.
    wants: "state" writes nothing, and yields the hidden state of the prompt's last token.
    base: read by the model as it was before any training. It recalls nothing, keeps no KV, and rests while a person
        waits for a turn.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    conversation: str | None = None
    stop: tuple[str, ...] = ()
    channel: Channel = "reply"
    priority: int = TURN
    time_limit: float = float("inf")
    recall: Recalling | None = None
    wants: Literal["text", "state"] = "text"
    base: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Text as it is written: whole characters of one channel. n: new tokens so far."""

    text: str
    channel: Channel
    n: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """A recall is over; the text of the memory came before it, on channel "memory"."""

    mode: Mode


@dataclass(frozen=True, slots=True)
class State:
    """The hidden state that a request wants."""

    vector: Vector


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens: of the prompt, of those taken from a kept KV cache, and written."""

    prompt: int
    cached: int
    completion: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from submission to the first step, to the first token, and to the end."""

    queue: float
    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The last item of every stream that was not cancelled and did not fail."""

    reason: FinishReason
    usage: Usage
    timing: Timing


Item = Piece | Recalled | State | Finish
"""What a stream yields."""


class Detokenizer(Protocol):
    """Turns the tokens of one text into whole characters."""

    def step(self, token: int) -> str:
        """Text that `token` completes; empty while a character is unfinished."""
        ...

    def flush(self) -> str:
        """What is left, with U+FFFD for bytes that never became a character."""
        ...


class Tokenizer(Protocol):
    """Text to tokens and back. Safe to use from any thread."""

    @property
    def thinks(self) -> bool:
        """Whether the model's own chat template opens its turn with thinking."""
        ...

    @property
    def recall(self) -> RecallTokens | None:
        """The tokens of recalls; None for a model that has no room for them."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text: whatever it says, no control token comes out."""
        ...

    def render(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Token ids of the chat template over (role, plain text), up to where the assistant writes.

        Roles are system, user, assistant. The contents are encoded as by `encode`.
        """
        ...

    def detokenizer(self) -> Detokenizer: ...


class Running(Protocol):
    """A sequence that the model holds: its KV cache, and the state of its sampler."""

    @property
    def length(self) -> int:
        """Tokens whose keys and values are in the cache."""
        ...


Want = Literal["nothing", "token", "likeliest", "query", "state"]
"""token: sampled. likeliest: greedy, and the sampler takes no notice. query: the state, through the query head."""


@dataclass(slots=True)
class Row:
    """The share of one sequence in a step: `tokens` follow what is cached.

    want: what is asked of the last of them. banned: tokens that may not come next. opening: decided before a token is
    drawn.
    value: a unit vector that the first token takes as its input embedding, scaled to the model's own.
    """

    running: Running
    tokens: Sequence[int]
    want: Want = "token"
    banned: Sequence[int] = ()
    value: Vector | None = None
    opening: Opening | None = None


@dataclass(frozen=True, slots=True)
class Traits:
    """What a model is, for people. parameters: their number. int8: whether linear layers have an int8 copy."""

    device: str
    dtype: str
    int8: bool
    threads: int
    parameters: int


class Model(Protocol):
    """What the worker needs from a language model. All but `tokenizer` and `traits` is for the worker thread only."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def traits(self) -> Traits: ...

    @property
    def max_context(self) -> int:
        """Most tokens of prompt and reply together."""
        ...

    @property
    def hidden_size(self) -> int:
        """Of its hidden states."""
        ...

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV that is kept for conversations at rest."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens with which the model ends its turn."""
        ...

    def start(self, request: Request) -> Running:
        """Begin a sequence, behind the longest prefix that a kept KV cache shares with the prompt."""
        ...

    def step(self, rows: Sequence[Row]) -> list[int | Vector | None]:
        """One forward for all rows. Returns what each row wants: a token, a vector, or None.

        When it raises, no row has advanced: each may be tried again by itself.
        """
        ...

    def release(self, running: Running, keep: str | None) -> None:
        """End a sequence; its KV is kept under the name of a conversation, or dropped (None)."""
        ...

    def use_release(self, folder: Path | None) -> None:
        """Serve what training has made, or None: the base. Raises ModelError, and then serves on as before."""
        ...

    def move(self, device: str | None) -> None:
        """Compute on another device from now on; None is the one that it was loaded on. Drops the kept KV.

        A model that was loaded on the CPU stays there.
        """
        ...

    def close(self) -> None:
        """Free what the model holds."""
        ...


@dataclass(slots=True)
class Stats:
    """Counters of the worker. Written by its thread, read by anyone."""

    running: int = 0
    waiting: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    kv_bytes: int = 0
