"""The shapes of /api/memories."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from qqmem.api.wire import In, Out, PartyId, Text, example

MemoryId = Annotated[int, Field(ge=1, lt=2**63)]
ScopeText = Annotated[
    Text,
    Field(
        max_length=160,
        description="`user:<qq>` (said in private), `group:<gid>`, `member:<qq>@<gid>` (said there) or `global`.",
        examples=["user:10001"],
    ),
]
Words = Annotated[Text, Field(min_length=1, max_length=2000)]

_FACT = {
    "id": 12,
    "kind": "fact",
    "scope": "user:10001",
    "text": "小明喜欢黑咖啡，不加糖",
    "state": "searchable",
    "subject_id": "10001",
    "speaker_id": "10001",
    "speaker_name": "小明",
    "conversation": "private:10001",
    "sources": [41],
    "valid_from": "2026-11-22T09:00:00Z",
    "created_at": "2026-11-22T09:02:01.500000Z",
    "pinned": False,
    "hits": 3,
    "used_at": "2026-11-23T20:10:00Z",
    "decodable": "",
}
_LANES = {
    "text": {"rank": 1, "score": 0.87, "strength": 1.3},
    "lexical": {"rank": 1, "score": 4.2, "strength": 1.1},
}


class NewMemory(In):
    """A fact told by hand."""

    model_config = ConfigDict(json_schema_extra=example(text="小明对花生过敏", scope="user:10001"))
    text: Text = Field(description="A sentence that stands by itself and names its subject.")
    scope: ScopeText
    subject_id: PartyId | None = Field(
        default=None, description="Whom it is about. Default: the person of the scope, if it has one."
    )
    kind: Literal["fact"] = "fact"


class NewText(In):
    """What a memory is to say."""

    model_config = ConfigDict(json_schema_extra=example(text="小明对花生和腰果过敏"))
    text: Text


class Pin(In):
    """Whether a memory stays when there are too many."""

    model_config = ConfigDict(json_schema_extra=example(pinned=True))
    pinned: bool = True


class Forget(In):
    """Which memories to forget: these ids, or all of a scope, or those of a scope whose text holds q."""

    model_config = ConfigDict(json_schema_extra=example(scope="user:10001", q="咖啡", confirm=False))
    ids: tuple[MemoryId, ...] | None = Field(default=None, min_length=1, max_length=500)
    scope: ScopeText | None = None
    q: Words | None = Field(default=None, description="Words as they stand in the text, in any case of letters.")
    confirm: bool = Field(default=False, description="Forget them; otherwise only say which they are.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.ids is None) == (self.scope is None) or (self.q is not None and self.scope is None):
            raise ValueError("Give either ids, or a scope and perhaps q.")
        return self


class LaneScore(Out):
    """rank: from 1. score: the lane's own, a cosine or BM25. strength: normalised, comparable with its floor."""

    rank: int
    score: float
    strength: float


class Memory(Out):
    """A memory.

    kind: fact, or somebody's own message. sources: the numbers of the messages that it comes from. valid_to: when it
    stopped being true. superseded_by: the newer one. hits: how often it was recalled. decodable: the release that can
    write it from its vector.
    """

    model_config = ConfigDict(json_schema_extra=example(**_FACT))
    id: int
    kind: Literal["fact", "message"]
    scope: str
    text: str
    state: Literal["searchable", "superseded", "expired", "deleted"]
    subject_id: str
    speaker_id: str
    speaker_name: str
    conversation: str
    sources: tuple[int, ...]
    valid_from: datetime
    valid_to: datetime | None = None
    superseded_by: int | None = None
    created_at: datetime
    pinned: bool
    hits: int
    used_at: datetime | None = None
    decodable: str


class Listed(Memory):
    """A memory. With q: score (higher is better), fits (above the floor, good enough to be recalled), and its lanes."""

    model_config = ConfigDict(
        json_schema_extra=example(**_FACT, score=1.16, fits=True, lanes=_LANES),
    )
    score: float | None = None
    fits: bool | None = None
    lanes: dict[Literal["state", "text", "lexical"], LaneScore] | None = None


class MemoryPage(Out):
    """Without q the newest first, with it the best. next: as `before`, the page of older ones."""

    model_config = ConfigDict(
        json_schema_extra=example(memories=[{**_FACT, "score": 1.16, "fits": True, "lanes": _LANES}])
    )
    memories: tuple[Listed, ...]
    next: int | None = None


class MemoryEvent(Out):
    """A change. old, new: the texts, emptied when it was forgotten. actor: who did it. reason: for people."""

    id: int
    event: Literal["ADD", "UPDATE", "SUPERSEDE", "EXPIRE", "DELETE", "PIN", "UNPIN"]
    old: str
    new: str
    actor: str
    reason: str
    at: datetime


class MemoryHistory(Out):
    """What happened to a memory, oldest first."""

    model_config = ConfigDict(
        json_schema_extra=example(
            events=[
                {
                    "id": 30,
                    "event": "UPDATE",
                    "old": "小明喜欢黑咖啡",
                    "new": "小明喜欢黑咖啡，不加糖",
                    "actor": "api:admin",
                    "reason": "",
                    "at": "2026-11-22T09:05:00Z",
                }
            ]
        )
    )
    events: tuple[MemoryEvent, ...]


class Forgotten(Out):
    """done: they are forgotten. count: how many were asked for. memories: the newest of them, before it is done.

    forgotten: the ids of all that went, also of what was taken along because it comes from the same messages.
    """

    model_config = ConfigDict(json_schema_extra=example(done=False, count=1, memories=[_FACT], forgotten=[]))
    done: bool
    count: int
    memories: tuple[Memory, ...] = ()
    forgotten: tuple[int, ...] = ()


class BadLine(Out):
    """A line, counted from 1, that could not be imported, and why."""

    line: int
    message: str


class Imported(Out):
    """skipped: lines that were remembered already, or had been forgotten. errors: the first of the bad lines."""

    model_config = ConfigDict(
        json_schema_extra=example(
            added=2, skipped=1, num_errors=1, errors=[{"line": 3, "message": "The line is not valid JSON."}]
        )
    )
    added: int
    skipped: int
    num_errors: int
    errors: tuple[BadLine, ...]


class ScopeCount(Out):
    """Memories of one scope."""

    scope: str
    count: int


class SubjectCount(Out):
    """Memories about one person, by the last known name; both are empty for nobody in particular."""

    subject_id: str
    name: str
    count: int


class MemoryCounts(Out):
    """How many memories there are. decodable: those that a release writes from their vectors."""

    model_config = ConfigDict(
        json_schema_extra=example(
            states={"searchable": 120, "superseded": 4},
            kinds={"fact": 80, "message": 44},
            decodable=60,
            scopes=[{"scope": "user:10001", "count": 70}],
            subjects=[{"subject_id": "10001", "name": "小明", "count": 66}],
        )
    )
    states: dict[str, int]
    kinds: dict[str, int]
    decodable: int
    scopes: tuple[ScopeCount, ...]
    subjects: tuple[SubjectCount, ...]


class MemoryPoint(Out):
    """A memory as a point, x and y within -1..1. text: its beginning."""

    id: int
    x: float
    y: float
    kind: Literal["fact", "message"]
    scope: str
    subject_id: str
    state: Literal["searchable", "superseded", "expired", "deleted"]
    decodable: str
    text: str


class MemoryMap(Out):
    """Memories as points of a plane. lane: whose vectors they are, absent if there are none.

    total: memories that have a vector. explained: shares of the variance that x and y show.
    """

    model_config = ConfigDict(
        json_schema_extra=example(
            lane="state",
            total=1,
            explained=[0.21, 0.09],
            points=[
                {
                    "id": 12,
                    "x": 0.31,
                    "y": -0.77,
                    "kind": "fact",
                    "scope": "user:10001",
                    "subject_id": "10001",
                    "state": "searchable",
                    "decodable": "",
                    "text": "小明喜欢黑咖啡，不加糖",
                }
            ],
        )
    )
    lane: Literal["state", "text"] | None = None
    total: int
    explained: tuple[float, float]
    points: tuple[MemoryPoint, ...]
