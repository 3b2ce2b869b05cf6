"""The store against the rules in plain Python, over random histories."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from qqmem.db import Database
from qqmem.errors import InvalidRequest, NotFound
from qqmem.memory.scope import Scope, View
from qqmem.memory.store import Store
from qqmem.memory.types import NewMemory
from qqmem.memory.words import Segmenter
from tests.memory.records import NOW, told

# Few and alike, so that they meet.
PEOPLE = ["1", "2", "a", "A"]
GROUPS = ["1", "7", "a", "A"]
SCOPES = st.one_of(
    st.just("global"),
    st.sampled_from(PEOPLE).map("user:{}".format),
    st.sampled_from(GROUPS).map("group:{}".format),
    st.builds("member:{}@{}".format, st.sampled_from(PEOPLE), st.sampled_from(GROUPS)),
)


@dataclass(frozen=True)
class Place:
    """Somebody looks: in private, in a group, or at one scope (or all of them) as an administrator."""

    kind: str
    id: str = ""
    opened: tuple[str, ...] = ()

    @property
    def view(self) -> View:
        if self.kind in ("private", "group"):
            return View.of(f"{self.kind}:{self.id}", self.opened)
        return View.all() if self.kind == "all" else View.only(Scope.parse(self.id))

    def may_see(self, scope: str) -> bool:
        """The rules as design.md has them."""
        if self.kind == "all":
            return True
        if self.kind == "only":
            return scope == self.id
        if scope == "global":
            return True
        kind, _, rest = scope.partition(":")
        if self.kind == "private":
            return scope == f"user:{self.id}" or (kind == "member" and rest.split("@")[0] == self.id)
        in_group = rest if kind == "group" else rest.split("@")[1] if kind == "member" else None
        return in_group == self.id or (kind == "user" and rest in self.opened)


PLACES = st.one_of(
    st.builds(Place, st.just("private"), st.sampled_from(PEOPLE)),
    st.builds(
        Place, st.just("group"), st.sampled_from(GROUPS), st.lists(st.sampled_from(PEOPLE), max_size=2).map(tuple)
    ),
    st.builds(Place, st.just("only"), SCOPES),
    st.just(Place("all")),
)


async def shown(store: Store, view: View, ids: list[int]) -> dict[str, set[int]]:
    """What each way of reading shows of memories about person 1."""
    return {
        "seen": {memory.id for memory in await store.seen(ids, view)},
        "page": {memory.id for memory in await store.page(view, 1000, state="searchable")},
        "own": {memory.id for memory in await store.own("1", view)},
        "lexical": {match.id for match in await store.lexical("团子", view, 1000)},
    }


async def probe(scopes: list[str], places: list[Place], segmenter: Segmenter) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Database.open(Path(folder)) as db:
            store = Store(db, segmenter)
            memories = await store.add([told(f"团子 {n}", one, subject_id="1") for n, one in enumerate(scopes)], "x")
            ids = [memory.id for memory in memories]
            await store.put_vectors("s", ids, [memory.told for memory in memories], np.ones((len(ids), 2), np.float32))
            await store.expire(ids[0], NOW, "x")
            await store.forget(ids[1:2], "x")
            ((indexed, scopes_of, _),) = [page async for page in store.vectors("s")]
            assert dict(zip(indexed, scopes_of, strict=True)) == dict(zip(ids[2:], scopes[2:], strict=True))
            for place in places:
                allowed = {memory.id for memory in memories[2:] if place.may_see(memory.scope)}
                for way, seen in (await shown(store, place.view, ids)).items():
                    assert seen == allowed, (way, place)


@given(scopes=st.lists(SCOPES, min_size=5, max_size=20), places=st.lists(PLACES, min_size=40, max_size=40))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_thousand_looks_show_what_they_may_and_nothing_else(
    scopes: list[str], places: list[Place], segmenter: Segmenter
) -> None:
    asyncio.run(probe(scopes, places, segmenter))


@given(scope=SCOPES, place=PLACES)
def test_a_view_sees_what_the_rules_say(scope: str, place: Place) -> None:
    assert place.view.sees(Scope.parse(scope)) == place.may_see(scope)


@dataclass
class Known:
    """What the model of the store knows of a memory."""

    scope: str
    text: str
    state: str = "searchable"
    newer: int | None = None
    hits: int = 0
    pinned: bool = False
    used: int = 0
    events: list[str] = field(default_factory=lambda: ["ADD"])

    @property
    def owner(self) -> str:
        """Whose forgetting counts."""
        kind, _, rest = self.scope.partition(":")
        return f"user:{rest.split('@')[0]}" if kind in ("user", "member") else self.scope


FEW_SCOPES = st.sampled_from(["user:1", "member:1@7", "member:2@7", "global"])
TEXTS = st.sampled_from(["猫", "狗", "鸟", "鱼"])
PICK = st.integers(0, 1000)


class AnyStore(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.memories: dict[int, Known] = {}
        self.forgotten: set[tuple[str, str]] = set()
        self.last = self.clock = 0
        self.open()

    def open(self) -> None:
        self.stack = AsyncExitStack()
        db = self.runner.run(self.stack.enter_async_context(Database.open(Path(self.folder.name))))
        self.store = Store(db, SEGMENTER)

    def left(self, *states: str) -> list[int]:
        return [id for id, one in self.memories.items() if one.state in (states or ("searchable", *OVER))]

    def picked(self, pick: int, *states: str) -> int:
        """One that is left, or none that ever was."""
        ids = self.left(*states)
        return ids[pick % len(ids)] if ids else 10**6

    def twin(self, scope: str, text: str) -> int | None:
        alive = (
            id for id in self.left("searchable") if (self.memories[id].scope, self.memories[id].text) == (scope, text)
        )
        return next(alive, None)

    def may_be(self, scope: str, text: str) -> bool:
        return (Known(scope, text).owner, text) not in self.forgotten

    def keep(self, id: int, scope: str, text: str) -> None:
        assert id > self.last
        self.last = id
        self.memories[id] = Known(scope, text)

    def refused(self, error: type[Exception], call: Callable[[], object]) -> None:
        with pytest.raises(error):
            call()

    @rule(scope=FEW_SCOPES, text=TEXTS)
    def add(self, scope: str, text: str) -> None:
        is_new = self.may_be(scope, text) and self.twin(scope, text) is None
        added = self.runner.run(self.store.add([told(text, scope)], "x"))
        assert len(added) == is_new
        for memory in added:
            self.keep(memory.id, scope, text)

    @rule(pick=PICK, text=TEXTS)
    def edit(self, pick: int, text: str) -> None:
        id = self.picked(pick)
        edit = self.store.edit(id, text, "x")
        if id not in self.memories:
            self.refused(NotFound, lambda: self.runner.run(edit))
            return
        one = self.memories[id]
        if one.text == text:
            self.runner.run(edit)
        elif one.state != "searchable" or not self.may_be(one.scope, text) or self.twin(one.scope, text):
            self.refused(InvalidRequest, lambda: self.runner.run(edit))
        else:
            assert self.runner.run(edit).text == text
            one.text = text
            one.events.append("UPDATE")

    @rule(picks=st.lists(PICK, max_size=3), scope=FEW_SCOPES, text=TEXTS)
    def supersede(self, picks: list[int], scope: str, text: str) -> None:
        old = {self.picked(pick) for pick in picks}
        new = self.runner.run(self.store.supersede(list(old), NewMemory("fact", scope, text, NOW), "x"))
        twin = self.twin(scope, text)
        if not self.may_be(scope, text):
            assert new is None
            return
        assert new is not None
        if twin is None:
            self.keep(new.id, scope, text)
        else:
            assert new.id == twin
        for id in old & set(self.left("searchable")) - {new.id}:
            self.memories[id].state, self.memories[id].newer = "superseded", new.id
            self.memories[id].events.append("SUPERSEDE")

    @rule(pick=PICK)
    def expire(self, pick: int) -> None:
        id = self.picked(pick, "searchable")
        if id in self.memories:
            self.runner.run(self.store.expire(id, NOW, "x"))
            self.memories[id].state = "expired"
            self.memories[id].events.append("EXPIRE")

    @rule(pick=PICK, pinned=st.booleans())
    def pin(self, pick: int, pinned: bool) -> None:
        id = self.picked(pick)
        if id in self.memories:
            self.runner.run(self.store.pin(id, pinned, "x"))
            if self.memories[id].pinned != pinned:
                self.memories[id].pinned = pinned
                self.memories[id].events.append("PIN" if pinned else "UNPIN")

    @rule(pick=PICK)
    def use(self, pick: int) -> None:
        id = self.picked(pick)
        self.runner.run(self.store.used([id]))
        if id in self.memories:
            self.clock += 1
            self.memories[id].hits += 1
            self.memories[id].used = self.clock

    @rule(picks=st.lists(PICK, max_size=2))
    def forget(self, picks: list[int]) -> None:
        asked = {self.picked(pick) for pick in picks}
        gone, more = set[int](), asked & set(self.left())
        while more:
            gone |= more
            more = {id for id in self.left() if self.memories[id].newer in gone} - gone
        assert self.runner.run(self.store.forget(asked, "x")) == sorted(gone)
        for id in gone:
            self.forgotten.add((self.memories[id].owner, self.memories[id].text))
        self.delete(gone)

    @rule(most=st.integers(0, 6))
    def evict(self, most: int) -> None:
        free = [id for id in self.left() if not self.memories[id].pinned]
        # Every use is later than every making, and ids are in the order in which they were made.
        key = {id: (one.state == "searchable", one.hits, one.used, id) for id, one in self.memories.items()}
        gone = sorted(free, key=lambda id: key[id])[: max(0, len(self.left()) - most)]
        assert self.runner.run(self.store.evict(most)) == gone
        self.delete(set(gone))

    def delete(self, ids: set[int]) -> None:
        for id in ids:
            self.memories[id].state, self.memories[id].text = "deleted", ""
            self.memories[id].events.append("DELETE")

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.stack.aclose())
        self.open()

    def check(self) -> None:
        found = {memory.id: memory for memory in self.runner.run(self.store.page(View.all(), 1000))}
        assert sorted(found) == self.left()
        for id, memory in found.items():
            one = self.memories[id]
            newer = (memory.superseded_by, memory.state, memory.text, memory.hits, memory.pinned)
            assert newer == (one.newer, one.state, one.text, one.hits, one.pinned)
        for text in "猫狗鸟鱼":
            alive = {id for id in self.left("searchable") if self.memories[id].text == text}
            assert {match.id for match in self.runner.run(self.store.lexical(text, View.all(), 1000))} == alive
        for id, one in self.memories.items():
            assert [event.event for event in self.runner.run(self.store.history(id))] == one.events
        counts = self.runner.run(self.store.count())
        assert {state: num for state, num in counts.items() if num} == {
            state: len(self.left(state)) for state in (*OVER, "searchable", "deleted") if self.left(state)
        }

    def teardown(self) -> None:
        self.check()
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()


OVER = ("superseded", "expired")
SEGMENTER = Segmenter()

TestAnyStore = AnyStore.TestCase
TestAnyStore.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
