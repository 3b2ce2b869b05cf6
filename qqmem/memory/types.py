"""What the parts of the memory say to each other and to those who ask: records, and the Protocol of encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""[n, dim], or [dim] for one."""

Kind = Literal["fact", "message"]
"""fact: extracted or told by hand, stands by itself and names its subject. message: somebody's own words."""

State = Literal["searchable", "superseded", "expired", "deleted"]

Lane = Literal["state", "text", "lexical"]
"""state: the model's hidden state against values. text: an encoder against keys. lexical: BM25."""


@dataclass(frozen=True, slots=True)
class NewMemory:
    """Something to remember.

    scope: as of scope.Scope, such as `member:10001@20002`.
    subject_id: the QQ number of whom it is about, "" for nobody in particular. speaker_id: of who said it.
    speaker_name: as it was shown then.
    valid_from: when it was said.
    sources: row ids of the messages that it comes from, all of one conversation; none if it was told by hand.
    """

    kind: Kind
    scope: str
    text: str
    valid_from: datetime
    subject_id: str = ""
    speaker_id: str = ""
    speaker_name: str = ""
    conversation: str = ""
    sources: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """A stored memory.

    valid_to: when it stopped being true, None if it has not. superseded_by: the id of the newer one.
    hits: how often it was recalled. decodable: the release whose model can write it from its vector, "" for none.
    """

    id: int
    kind: Kind
    scope: str
    text: str
    valid_from: datetime
    subject_id: str
    speaker_id: str
    speaker_name: str
    conversation: str
    sources: tuple[int, ...]
    state: State
    created_at: datetime
    valid_to: datetime | None = None
    superseded_by: int | None = None
    pinned: bool = False
    hits: int = 0
    used_at: datetime | None = None
    decodable: str = ""

    @property
    def told(self) -> str:
        """The memory as the model reads it: a message with the name of who said it."""
        if self.kind == "message" and self.speaker_name:
            return f"{self.speaker_name}：{self.text}"
        return self.text


@dataclass(frozen=True, slots=True)
class MemoryEvent:
    """One change of a memory. old, new: its texts; both are emptied when it is forgotten.

    actor: who did it: `user:<qq>`, `extract`, `message`, `api:<token name>`, `evict`. reason: for people.
    """

    id: int
    memory_id: int
    event: Literal["ADD", "UPDATE", "SUPERSEDE", "EXPIRE", "DELETE", "PIN", "UNPIN"]
    old: str
    new: str
    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Census:
    """How many memories are left, by kind, state and scope. subjects: id, last known name, and number.

    decodable: those that a release can write from their vectors.
    """

    kinds: Mapping[str, int]
    states: Mapping[str, int]
    scopes: Mapping[str, int]
    subjects: tuple[tuple[str, str, int], ...]
    decodable: int


@dataclass(frozen=True, slots=True)
class Change:
    """What has become of memories. scope: of all of them, "" if they have several, or are gone."""

    kind: Literal["added", "changed", "forgotten"]
    ids: tuple[int, ...]
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Space:
    """A vector space. id: names model, prompt and version; vectors of two spaces are never compared.

    centre: [dim], subtracted from every vector before it is stored or compared; zeros for none.
    cohort_keys, cohort_queries: [n, dim], centred and unit: unrelated texts, against which scores are normalised.
    floor: the normalised score that unrelated pairs reach once in a while only (calibrated; search.py says how).
    """

    id: str
    dim: int
    centre: Vectors
    cohort_keys: Vectors
    cohort_queries: Vectors
    floor: float


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for. text: the cue and the last message. state: [dim of the value space], if the model asks.

    before: what the text may answer; a memory is as near as it is to the text with that before it, or without.
    """

    text: str
    state: Vectors | None = None
    before: str = ""


@dataclass(frozen=True, slots=True)
class LaneScore:
    """rank: from 1. score: the lane's own: a cosine, or BM25. strength: the score, normalised."""

    rank: int
    score: float
    strength: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory that was found. score: fused, higher is better. lead: by how much that is above the floor."""

    memory: Memory
    score: float
    lead: float
    lanes: Mapping[Lane, LaneScore] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether it has to do with what was looked for."""
        return self.lead > 0


class Encoder(Protocol):
    """Texts to vectors of one space: finite, of any length. Awaits what takes long; safe for several tasks."""

    @property
    def space(self) -> str:
        """Id of the space: model, prompt and version."""
        ...

    @property
    def dim(self) -> int: ...

    async def keys(self, texts: Sequence[str]) -> Vectors:
        """[n, dim] of texts that are to be found."""
        ...

    async def queries(self, texts: Sequence[str]) -> Vectors:
        """[n, dim] of texts that look for them."""
        ...
