from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qqmem.memory.embed import unit
from qqmem.memory.graph import Graph
from qqmem.memory.index import Index, Place
from qqmem.memory.scope import Scope, View
from qqmem.memory.types import Vectors

DIM = 16
SCOPES = ["user:1", "user:2", "group:7", "member:1@7", "member:2@7", "member:1@8", "global"]
VIEWS = [
    View.of("private:1"),
    View.of("private:2"),
    View.of("group:7"),
    View.of("group:8", opened=["1"]),
    View.of("group:9"),
    View.only(Scope.parse("member:1@7")),
    View.only(Scope.parse("group:7")),
    View(frozenset({"member:2@7"}), owner="1"),
    View(frozenset(), group="7"),
    View.all(),
]


def vector(seed: int, dim: int = DIM) -> Vectors:
    return unit(np.random.default_rng(seed).normal(size=dim).astype(np.float32))


def some(num: int, dim: int = DIM) -> Vectors:
    return np.array([vector(n, dim) for n in range(num)])


@pytest.fixture
def going() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def filled(folder: Path, limit: int = 10_000) -> Index:
    """Memory n in scope n % 7, with vector n."""
    index = Index("s", DIM, folder, limit)
    index.put(range(70), [SCOPES[n % 7] for n in range(70)], some(70))
    return index


def ids(index: Index, query: Vectors, view: View, k: int, without: tuple[int, ...] = ()) -> list[int]:
    found: list[int] = index.search(query, view, k, without)[0].tolist()
    return found


def nearest(query: Vectors, view: View, k: int, num: int = 70) -> list[int]:
    seen = [n for n in range(num) if view.sees(Scope.parse(SCOPES[n % 7]))]
    return sorted(seen, key=lambda n: float(-vector(n) @ query))[:k]


# Search


@pytest.mark.parametrize("limit", [10_000, 5])
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: "+".join(sorted(view.scopes)) or "all")
def test_search_finds_the_nearest_that_the_view_shows(
    tmp_path: Path, going: threading.Event, view: View, limit: int
) -> None:
    index = filled(tmp_path, limit)
    index.build(going)
    for seed in range(100, 110):
        assert ids(index, vector(seed), view, 5) == nearest(vector(seed), view, 5)


def test_scores_are_cosines_best_first(tmp_path: Path) -> None:
    found, cosines = filled(tmp_path).search(vector(3), View.all(), 4)
    assert found[0] == 3
    np.testing.assert_allclose(cosines, [vector(n) @ vector(3) for n in found.tolist()], atol=1e-6)
    assert list(cosines) == sorted(cosines, reverse=True)


def test_what_is_to_be_left_out_does_not_take_a_place(tmp_path: Path, going: threading.Event) -> None:
    index = filled(tmp_path, 5)
    index.build(going)
    every = nearest(vector(100), VIEWS[2], 8)
    assert ids(index, vector(100), VIEWS[2], 5, without=tuple(every[:3])) == every[3:]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: "+".join(sorted(view.scopes)) or "all")
def test_an_empty_index_finds_nothing(tmp_path: Path, view: View) -> None:
    found, cosines = Index("s", DIM, tmp_path).search(vector(1), view, 5)
    assert len(found) == len(cosines) == 0


def test_equal_memories_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    index = Index("s", DIM, tmp_path)
    index.put([5, 3, 4], ["global"] * 3, np.array([vector(1)] * 3))
    assert ids(index, vector(1), View.all(), 3) == [3, 4, 5]


def test_a_memory_put_again_has_its_new_vector_and_scope_only(tmp_path: Path, going: threading.Event) -> None:
    index = filled(tmp_path, 5)
    index.build(going)
    index.put([0], ["group:7"], vector(500)[None])
    assert len(index) == 70
    assert ids(index, vector(500), View.of("group:7"), 1) == [0]
    assert 0 not in ids(index, vector(0), View.of("private:1"), 50)


def test_vectors_are_those_that_are_known(tmp_path: Path) -> None:
    known, vectors = filled(tmp_path).vectors([3, 999, 1])
    assert known == [3, 1]
    np.testing.assert_array_equal(vectors, [vector(3), vector(1)])
    assert Index("s", DIM, tmp_path).vectors([1])[1].shape == (0, DIM)


def test_a_place_that_shrinks_leaves_no_vector_behind() -> None:
    place = Place("global", DIM)
    place.put(1, "global", vector(1))
    place.put(2, "global", vector(2))
    place.drop(1)
    place.drop(2)
    assert not place._vectors.any()
    assert not place.scopes


# Graphs


def exact(vectors: Vectors, query: Vectors, k: int) -> list[int]:
    order: list[int] = np.argsort(-(vectors @ query)).tolist()
    return order[:k]


def test_a_graph_finds_nearly_all_that_exact_search_finds() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 32))
    vectors = unit((centres[rng.integers(40, size=4000)] + rng.normal(size=(4000, 32)) / 2).astype(np.float32))
    graph = Graph.empty(32, 10)
    for start in range(0, 4000, 500):
        graph.put(range(start, start + 500), vectors[start : start + 500])
    found = [graph.search(vectors[n], 10) for n in range(0, 4000, 100)]
    shares = [
        len({*pair[0].tolist()} & {*exact(vectors, vectors[n], 10)})
        for pair, n in zip(found, range(0, 4000, 100), strict=True)
        if pair is not None
    ]
    assert len(shares) == 40
    assert sum(shares) >= 0.99 * 400


def test_a_place_is_searched_by_its_graph_once_it_has_one(tmp_path: Path, going: threading.Event) -> None:
    index = filled(tmp_path, 5)
    index.build(going)
    place = index._places["group:7"]
    assert place.graph is not None
    assert len(place.graph) == len(place) == 30
    place.rows = None  # type: ignore[assignment, method-assign]
    assert ids(index, vector(100), View.of("group:7"), 3)


def test_small_places_get_no_graph(tmp_path: Path, going: threading.Event) -> None:
    index = filled(tmp_path, 30)
    index.build(going)
    assert all(place.graph is None for place in index._places.values())


def test_a_graph_that_has_come_apart_is_not_believed(tmp_path: Path, going: threading.Event) -> None:
    index = filled(tmp_path, 5)
    index.build(going)

    class Broken:
        def search(self, query: Vectors, k: int) -> None:
            return None

    index._places["group:7"].graph = Broken()  # type: ignore[assignment]
    assert ids(index, vector(100), View.of("group:7"), 5) == nearest(vector(100), View.of("group:7"), 5)


def test_changes_while_a_graph_is_being_built_are_in_it(tmp_path: Path) -> None:
    index = filled(tmp_path, 5)
    changes: Iterator[Callable[[], None]] = iter(
        [
            lambda: index.put([0], ["user:1"], vector(500)[None]),
            lambda: index.drop([7]),
            lambda: index.put([900], ["user:1"], vector(900)[None]),
        ]
    )

    class Going(threading.Event):
        def is_set(self) -> bool:
            next(changes, lambda: None)()
            return True

    index.build(Going())
    graph = index._places["user:1"].graph
    assert graph is not None
    assert sorted(graph._label_of) == sorted({*range(0, 70, 7), 900} - {7})
    assert ids(index, vector(500), View.only(Scope.parse("user:1")), 1) == [0]
    assert 7 not in ids(index, vector(7), View.only(Scope.parse("user:1")), 50)


def test_a_build_that_is_stopped_changes_nothing_and_can_be_repeated(tmp_path: Path, going: threading.Event) -> None:
    index = filled(tmp_path, 5)
    index.build(threading.Event())
    assert all(place.graph is None and place.touched is None for place in index._places.values())
    index.build(going)
    assert all(place.graph for place in index._places.values() if len(place) > 5)


def test_deleting_leaves_no_vector_in_the_graph(tmp_path: Path) -> None:
    graph = Graph.empty(DIM)
    graph.put([1, 2, 3], some(3))
    graph.drop([2, 99])
    graph.put([3], vector(50)[None])
    graph.save(tmp_path / "x.json", "s")
    (file,) = tmp_path.glob("*.graph")
    held = file.read_bytes()
    assert vector(0).tobytes() in held
    assert vector(1).tobytes() not in held
    assert vector(2).tobytes() not in held


def test_places_of_deleted_vectors_are_used_again() -> None:
    graph = Graph.empty(DIM, 50)
    for round in range(20):
        graph.put(range(50), np.array([vector(50 * round + n) for n in range(50)]))
    assert graph._graph.get_max_elements() <= 150
    found = graph.search(vector(50 * 19 + 3), 1)
    assert found is not None
    assert found[0].tolist() == [3]


# Snapshots


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    graph = Graph.empty(DIM)
    graph.put(range(20), some(20))
    graph.drop([4])
    graph.save(tmp_path / "place.json", "s")
    return tmp_path / "place.json"


def test_a_snapshot_comes_back(manifest: Path) -> None:
    graph = Graph.load(manifest, "s", DIM)
    assert graph is not None
    assert graph.reconcile([n for n in range(20) if n != 4], some(20)[[n for n in range(20) if n != 4]]) == 0
    found = graph.search(vector(7), 19)
    assert found is not None
    assert found[0][0] == 7
    assert 4 not in found[0]
    graph.put([4, 99], np.array([vector(4), vector(99)]))
    assert len(graph) == 21
    again = graph.search(vector(0), 21)
    assert again is not None
    assert sorted(again[0].tolist()) == [*range(20), 99]
    assert again[0][0] == 0


def torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flipped(path: Path) -> None:
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


@pytest.mark.parametrize("damage", [torn, flipped, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("what", ["*.json", "*.graph"])
def test_a_damaged_snapshot_is_none(manifest: Path, damage: Callable[[Path], None], what: str) -> None:
    (path,) = manifest.parent.glob(what)
    damage(path)
    assert Graph.load(manifest, "s", DIM) is None


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"graph": 1}', '{"graph": "../x", "sum": ""}', "\0"])
def test_a_manifest_that_is_something_else_is_none(manifest: Path, content: str) -> None:
    manifest.write_text(content)
    assert Graph.load(manifest, "s", DIM) is None


def test_a_manifest_that_was_changed_is_none(manifest: Path) -> None:
    about = json.loads(manifest.read_text())
    about["ids"][0], about["ids"][1] = about["ids"][1], about["ids"][0]
    manifest.write_text(json.dumps(about))
    assert Graph.load(manifest, "s", DIM) is None


def test_a_snapshot_of_another_space_or_size_is_none(manifest: Path) -> None:
    assert Graph.load(manifest, "other", DIM) is None
    assert Graph.load(manifest, "s", DIM + 1) is None


def test_a_crash_anywhere_in_a_save_leaves_the_snapshot_before_it(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = Graph.empty(DIM)
    newer.put(range(30), some(30))
    real = os.replace
    done: list[Path] = []

    def replace(source: Path, target: Path) -> None:
        if len(done) == crash_at:
            raise OSError("crash")
        done.append(target)
        real(source, target)

    monkeypatch.setattr("qqmem.memory.graph.os.replace", replace)
    for crash_at in (0, 1):  # noqa: B007
        done.clear()
        with pytest.raises(OSError, match="crash"):
            newer.save(manifest, "s")
        old = Graph.load(manifest, "s", DIM)
        assert old is not None
        assert len(old) == 19
    done.clear()
    crash_at = 2
    newer.save(manifest, "s")
    assert len(list(manifest.parent.iterdir())) == 2


def test_an_index_starts_from_its_snapshots_and_what_has_changed_since(
    tmp_path: Path, going: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = filled(tmp_path, 5)
    index.build(going)
    index.save()
    again = filled(tmp_path, 5)
    again.drop([0])
    again.put([7], ["user:1"], vector(500)[None])
    again.put([900], ["user:1"], vector(900)[None])
    put: list[int] = []
    real = Graph.put

    def noted(self: Graph, ids: Sequence[int], vectors: Vectors) -> None:
        put.extend(ids)
        real(self, ids, vectors)

    monkeypatch.setattr(Graph, "put", noted)
    again.build(going)
    assert sorted(put) == [7, 900]
    assert 0 not in ids(again, vector(0), View.all(), 50)
    assert ids(again, vector(500), View.only(Scope.parse("user:1")), 1) == [7]


def test_only_graphs_that_have_changed_enough_are_saved(tmp_path: Path, going: threading.Event) -> None:
    index = filled(tmp_path, 20)
    index.build(going)
    index.save(at_least=31)
    assert not index.folder.exists()
    index.save(at_least=30)
    (manifest,) = index.folder.glob("*.json")
    before = manifest.stat().st_mtime_ns
    index.save()
    assert manifest.stat().st_mtime_ns == before
    assert json.loads(manifest.read_text())["space"] == "s"


# Any sequence


@settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
class Changes(RuleBasedStateMachine):
    """An index with graphs, through any sequence of changes, against a plain dictionary."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.truth: dict[int, tuple[str, int]] = {}
        self.num = 0
        self.going = threading.Event()
        self.going.set()
        for file in self.folder.rglob("*.*"):
            file.unlink()
        self.restart()

    @rule(scope=st.sampled_from(SCOPES), num=st.integers(1, 12))
    def put(self, scope: str, num: int) -> None:
        new = {self.num + n: (scope, self.num + n) for n in range(1, num + 1)}
        self.truth |= new
        self.num += num
        self.index.put(list(new), [scope] * num, np.array([vector(seed) for _, seed in new.values()]))

    @rule(which=st.integers(0, 1000), scope=st.sampled_from(SCOPES))
    def change(self, which: int, scope: str) -> None:
        if self.truth:
            id = sorted(self.truth)[which % len(self.truth)]
            self.num += 1  # an id that is never used
            self.truth[id] = scope, self.num
            self.index.put([id], [scope], vector(self.num)[None])

    @rule(which=st.sets(st.integers(0, 200)))
    def drop(self, which: set[int]) -> None:
        self.truth = {id: at for id, at in self.truth.items() if id not in which}
        self.index.drop(which)

    @rule()
    def build(self) -> None:
        self.index.build(self.going)

    @rule()
    def save(self) -> None:
        self.index.save()

    @rule()
    def restart(self) -> None:
        """The vectors come from the truth, the graphs from whatever was saved."""
        self.index = Index("s", DIM, self.folder, 8)
        vectors = np.array([vector(seed) for _, seed in self.truth.values()]).reshape(-1, DIM)
        self.index.put(list(self.truth), [scope for scope, _ in self.truth.values()], vectors)

    @rule(which=st.integers(0, 100))
    def tear(self, which: int) -> None:
        if files := sorted(self.folder.rglob("*.*")):
            torn(files[which % len(files)])

    @invariant()
    def agrees(self) -> None:
        query = vector(10_000 + self.num)
        for view in VIEWS:
            seen = [id for id, (scope, _) in self.truth.items() if view.sees(Scope.parse(scope))]
            right = sorted(seen, key=lambda id: float(-vector(self.truth[id][1]) @ query))
            assert ids(self.index, query, view, 1000) == right


def test_after_any_sequence_the_index_finds_what_is_there(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    Changes.folder = tmp_path
    run_state_machine_as_test(Changes)
