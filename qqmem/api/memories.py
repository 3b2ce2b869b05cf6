"""Routes to what is remembered: search, tell, correct, forget, and carry elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse

from qqmem.api import wire, wire_memory as shapes
from qqmem.api.auth import Caller
from qqmem.api.problems import documented
from qqmem.api.state import Admin, Reader, TheLimits, TheMemories
from qqmem.api.stream import Stream
from qqmem.errors import Conflict, InvalidRequest
from qqmem.memory import exchange
from qqmem.memory.memories import Memories
from qqmem.memory.scope import Scope, View
from qqmem.memory.store import Store
from qqmem.memory.types import Hit, Memory, NewMemory, Query as Asked

router = APIRouter(prefix="/api/memories", tags=["memories"], responses=documented(401, 403, 404, 422, 429))

Id = Annotated[int, Path(ge=1, lt=2**63, description="The number of a memory.", examples=[12])]
InScope = Annotated[shapes.ScopeText | None, Query(description="Only this scope.")]
SeenIn = Annotated[
    wire.ConversationId | None,
    Query(description="Only what may be seen in this conversation.", examples=["group:20002"]),
]
Words = Annotated[shapes.Words | None, Query(description="Search for this, instead of listing.")]
Ids = Annotated[
    tuple[shapes.MemoryId, ...], Query(max_length=200, description="Just these, in this order, of those there are.")
]

_PAGE = 200
_SHOWN = 200
"""Most memories that /forget lists."""
_BATCH = 100
_LONGEST_LINE = 2**16
_MOST_ERRORS = 1000

_LINES = """{"kind":"fact","scope":"user:10001","text":"小明喜欢黑咖啡，不加糖","subject_id":"10001", …}
"""


@router.get("", response_model_exclude_none=True)
async def list_memories(
    _: Reader,
    memories: TheMemories,
    q: Words = None,
    scope: InScope = None,
    conversation: SeenIn = None,
    k: Annotated[int, Query(ge=1, le=100, description="With q: most that are found.")] = 10,
    kind: Annotated[Literal["fact", "message"] | None, Query(description="Without q: only this kind.")] = None,
    state: Annotated[
        Literal["searchable", "superseded", "expired"] | None, Query(description="Without q: only in this state.")
    ] = None,
    subject: Annotated[wire.PartyId | None, Query(description="Without q: only what is about this person.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Without q: most entries of the page.")] = 50,
    before: Annotated[int | None, Query(ge=1, lt=2**63, description="Without q: `next` of the page before.")] = None,
    ids: Ids = (),
) -> shapes.MemoryPage:
    """A page of memories, the newest first; or with q what a search for it finds, the best first, and why."""
    view = _view(scope, conversation)
    if ids:
        _only_search(q, kind, state, subject, before)
        return shapes.MemoryPage(
            memories=tuple(map(shapes.Listed.model_validate, await memories.store.some(ids, view)))
        )
    if q is not None:
        _only_search(kind, state, subject, before)
        hits = await memories.search(Asked(q), view, k)
        return shapes.MemoryPage(memories=tuple(map(_found, hits)))
    page = await memories.store.page(view, limit, before, kind=kind, state=state, subject=subject)
    return shapes.MemoryPage(
        memories=tuple(map(shapes.Listed.model_validate, page)), next=page[-1].id if len(page) == limit else None
    )


@router.post("", status_code=201, response_model_exclude_none=True, responses=documented(409))
async def add_memory(body: shapes.NewMemory, caller: Admin, memories: TheMemories) -> shapes.Memory:
    """Tell the bot a fact."""
    scope = Scope.parse(body.scope)
    subject = scope.owner if body.subject_id is None else body.subject_id
    new = NewMemory(body.kind, str(scope), body.text, datetime.now(UTC), subject_id=subject)
    added = await memories.add([new], _actor(caller))
    if not added:
        raise Conflict("This is remembered in that scope already, or it was forgotten there and stays so.")
    return shapes.Memory.model_validate(added[0])


@router.post("/forget", response_model_exclude_none=True)
async def forget_memories(body: shapes.Forget, caller: Admin, memories: TheMemories) -> shapes.Forgotten:
    """Forget several for good; without `confirm` nothing is forgotten, and the answer says what would be."""
    found = await _chosen(memories.store, body)
    shown = tuple(map(shapes.Memory.model_validate, found[:_SHOWN]))
    if not body.confirm:
        return shapes.Forgotten(done=False, count=len(found), memories=shown)
    gone = await memories.forget([memory.id for memory in found], _actor(caller))
    return shapes.Forgotten(done=True, count=len(found), forgotten=tuple(gone))


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: {"description": "JSON lines.", "content": {"application/jsonl": {"example": _LINES}}}},
)
async def export_memories(_: Admin, memories: TheMemories, limits: TheLimits, scope: InScope = None) -> Stream:
    """All memories, or those of a scope, as JSON lines that an import takes."""
    return Stream(_exported(memories.store, _view(scope, None)), limits.send_seconds, "application/jsonl")


@router.post(
    "/import",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/jsonl": {"schema": {"type": "string"}, "example": _LINES}},
        }
    },
)
async def import_memories(request: Request, caller: Admin, memories: TheMemories) -> shapes.Imported:
    """Take in JSON lines of an export. Bad lines are listed; the others come in."""
    found = _Import(memories, _actor(caller))
    async with aclosing(lines_of(request.stream())) as lines:
        async for number, line in lines:
            await found.take(number, line)
    return await found.end()


@router.get("/{id}", response_model_exclude_none=True)
async def get_memory(id: Id, _: Reader, memories: TheMemories) -> shapes.Memory:
    """One memory."""
    return shapes.Memory.model_validate(await memories.store.find(id))


@router.patch("/{id}", response_model_exclude_none=True)
async def edit_memory(id: Id, body: shapes.NewText, caller: Admin, memories: TheMemories) -> shapes.Memory:
    """Give a memory another text."""
    return shapes.Memory.model_validate(await memories.edit(id, body.text, _actor(caller)))


@router.delete("/{id}")
async def forget_memory(id: Id, caller: Admin, memories: TheMemories) -> shapes.Forgotten:
    """Forget a memory for good, and what comes from the same messages."""
    await memories.store.find(id)
    gone = await memories.forget([id], _actor(caller))
    return shapes.Forgotten(done=True, count=1, forgotten=tuple(gone))


@router.get("/{id}/history")
async def get_memory_history(id: Id, _: Reader, memories: TheMemories) -> shapes.MemoryHistory:
    """What happened to a memory; of a forgotten one, without its texts."""
    events = await memories.store.history(id)
    return shapes.MemoryHistory(events=tuple(map(shapes.MemoryEvent.model_validate, events)))


@router.post("/{id}/pin", response_model_exclude_none=True)
async def pin_memory(id: Id, body: shapes.Pin, caller: Admin, memories: TheMemories) -> shapes.Memory:
    """Keep a memory even when there are too many, or no longer."""
    return shapes.Memory.model_validate(await memories.pin(id, body.pinned, _actor(caller)))


def _view(scope: str | None, conversation: str | None) -> View:
    """What is looked at. Raises InvalidRequest."""
    if scope is not None and conversation is not None:
        raise InvalidRequest("Give either scope or conversation, not both.")
    if scope is not None:
        return View.only(Scope.parse(scope))
    return View.all() if conversation is None else View.of(conversation)


def _only_search(*filters: object) -> None:
    if any(each is not None for each in filters):
        raise InvalidRequest("kind, state, subject and before belong to the list; q and ids stand alone in a scope.")


def _found(hit: Hit) -> shapes.Listed:
    lanes = {lane: shapes.LaneScore.model_validate(score) for lane, score in hit.lanes.items()}
    memory = shapes.Listed.model_validate(hit.memory)
    return memory.model_copy(update={"score": hit.score, "fits": hit.fits, "lanes": lanes})


def _actor(caller: Caller) -> str:
    return f"api:{caller.name}"


async def _chosen(store: Store, body: shapes.Forget) -> list[Memory]:
    """What is to be forgotten. Raises InvalidRequest and NotFound."""
    if body.ids is not None:
        return [await store.find(id) for id in dict.fromkeys(body.ids)]
    assert body.scope is not None, "checked by its shape"
    words = (body.q or "").casefold()
    async with aclosing(_pages(store, View.only(Scope.parse(body.scope)))) as pages:
        return [memory async for page in pages for memory in page if words in memory.text.casefold()]


async def _pages(store: Store, view: View) -> AsyncGenerator[Sequence[Memory]]:
    """All that the view sees, the newest first."""
    before = None
    while page := await store.page(view, _PAGE, before):
        yield page
        before = page[-1].id


async def _exported(store: Store, view: View) -> AsyncGenerator[bytes]:
    """The oldest first, so that an import gives them ids in the same order."""
    ends: list[int | None] = [None]
    async with aclosing(_pages(store, view)) as pages:
        ends += [page[-1].id async for page in pages]
    for end in reversed(ends):
        page = await store.page(view, _PAGE, end)
        yield "".join(f"{exchange.encode(memory)}\n" for memory in reversed(page)).encode()


async def lines_of(pieces: AsyncIterator[bytes]) -> AsyncGenerator[tuple[int, bytes]]:
    """The lines of a body without their ends, by numbers from 1.

    Of one that is longer than 64 KiB only the beginning, and a byte more than that.
    """
    numbers, rest = itertools.count(1), b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield next(numbers), line[: _LONGEST_LINE + 1]
        rest = rest[: _LONGEST_LINE + 1]
    yield next(numbers), rest


class _Import:
    """Takes lines in, some at a time. ids: from those of the lines to those here. unlinked: by ids here, of lines."""

    def __init__(self, memories: Memories, actor: str) -> None:
        self._memories = memories
        self._actor = actor
        self._batch: list[Memory] = []
        self._ids: dict[int, int] = {}
        self._unlinked: dict[int, int] = {}
        self._added = self._skipped = self._bad = 0
        self._errors: list[shapes.BadLine] = []

    async def take(self, number: int, line: bytes) -> None:
        if not line.strip():
            return
        try:
            self._batch.append(_decoded(line))
        except InvalidRequest as error:
            self._bad += 1
            if self._bad <= _MOST_ERRORS:
                self._errors.append(shapes.BadLine(line=number, message=str(error)))
        if len(self._batch) == _BATCH:
            await self._store()

    async def end(self) -> shapes.Imported:
        await self._store()
        return shapes.Imported(
            added=self._added, skipped=self._skipped, num_errors=self._bad, errors=tuple(self._errors)
        )

    async def _store(self) -> None:
        batch, self._batch = self._batch, []
        stored = await self._memories.restore(batch, self._actor, "import", ids=self._ids)
        for line, memory in zip(batch, stored, strict=True):
            self._added += memory is not None
            self._skipped += memory is None
            if memory is not None and line.superseded_by and memory.superseded_by is None:
                self._unlinked[memory.id] = line.superseded_by
        await self._link()

    async def _link(self) -> None:
        """What was waiting for the line of the one that supersedes it."""
        links = {id: self._ids[newer] for id, newer in self._unlinked.items() if newer in self._ids}
        if links:
            await self._memories.store.relink(links)
        self._unlinked = {id: newer for id, newer in self._unlinked.items() if id not in links}


def _decoded(line: bytes) -> Memory:
    """Raises InvalidRequest."""
    if len(line) > _LONGEST_LINE:
        raise InvalidRequest(f"The line is longer than {_LONGEST_LINE} bytes.")
    return exchange.decode(line)
