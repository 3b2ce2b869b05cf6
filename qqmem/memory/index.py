"""Vectors in memory, by place, and the search over what a View shows; SQLite has the truth.

A place is a group with its members, a person's private chats, or what is global. Each has one contiguous array, which
is searched exactly; a large one has an HNSW graph beside it, for searches over the whole of it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, KeysView, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qqmem.memory.embed import dots
from qqmem.memory.graph import Graph
from qqmem.memory.scope import Scope, View
from qqmem.memory.types import Vectors

EXACT_LIMIT = 10_000
"""Vectors in a place up to which exact search is quick enough: some 1.5 ms."""

Found = tuple[NDArray[np.int64], Vectors]
"""Ids and cosines, best first."""


class Place:
    """The vectors of one place: ids and [capacity, dim], of which the first `len` rows are in use.

    graph: once there is one. touched: what has changed while the graph is being built, None while it is not.
    unsaved: changes since its last snapshot.
    """

    def __init__(self, name: str, dim: int) -> None:
        self.name = name
        self.graph: Graph | None = None
        self.touched: set[int] | None = None
        self.unsaved = 0
        self._ids = np.zeros(16, np.int64)
        self._vectors = np.zeros((16, dim), np.float32)
        self._row: dict[int, int] = {}
        self._scope: dict[int, str] = {}
        self._in: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, id: int) -> bool:
        return id in self._row

    @property
    def scopes(self) -> KeysView[str]:
        """Those that have something."""
        return self._in.keys()

    def put(self, id: int, scope: str, vector: Vectors) -> None:
        """Add, or replace."""
        self.drop(id)
        row = len(self._row)
        if row == len(self._ids):
            self._resize(2 * row)
        self._ids[row], self._vectors[row] = id, vector
        self._row[id], self._scope[id] = row, scope
        self._in.setdefault(scope, set()).add(id)

    def drop(self, id: int) -> None:
        """Remove it, if it is there. The last row takes its place."""
        if id not in self._row:
            return
        row, last = self._row.pop(id), len(self._row)
        self._leave(id)
        if row != last:
            self._ids[row], self._vectors[row] = self._ids[last], self._vectors[last]
            self._row[int(self._ids[row])] = row
        self._vectors[last] = 0

    def vector(self, id: int) -> Vectors:
        vector: Vectors = self._vectors[self._row[id]].copy()
        return vector

    def rows(self, scopes: Collection[str] | None = None) -> tuple[NDArray[np.int64], Vectors]:
        """Ids and vectors: of everything, without copying it, or copies of what is in these scopes."""
        if scopes is None:
            return self._ids[: len(self)], self._vectors[: len(self)]
        rows = [self._row[id] for scope in scopes for id in self._in.get(scope, ())]
        return self._ids[rows], self._vectors[rows]

    def _leave(self, id: int) -> None:
        scope = self._scope.pop(id)
        self._in[scope].discard(id)
        if not self._in[scope]:
            del self._in[scope]

    def _resize(self, capacity: int) -> None:
        ids, vectors = self.rows()
        self._ids, self._vectors = np.zeros(capacity, np.int64), np.zeros((capacity, vectors.shape[1]), np.float32)
        self._ids[: len(ids)], self._vectors[: len(ids)] = ids, vectors


class Index:
    """All vectors of one space. Safe for several threads; takes milliseconds and more: not on the event loop.

    folder: of the snapshots of all spaces. exact_limit: vectors in a place above which it has a graph.
    """

    def __init__(self, space: str, dim: int, folder: Path, exact_limit: int = EXACT_LIMIT) -> None:
        self.space = space
        self.dim = dim
        self.folder = folder / hashlib.blake2b(space.encode()).hexdigest()[:16]
        self._limit = exact_limit
        self._places: dict[str, Place] = {}
        self._place_of: dict[int, Place] = {}
        self._groups_of: defaultdict[str, set[str]] = defaultdict(set)  # where each person has said something
        # For every look at places and graphs; what takes long is done in steps between which it is free.
        self._lock = threading.RLock()
        self._building = threading.Lock()

    def __len__(self) -> int:
        return len(self._place_of)

    def put(self, ids: Sequence[int], scopes: Sequence[str], vectors: Vectors) -> None:
        """Add, or replace. vectors: [n, dim], unit."""
        for id, scope, vector in zip(ids, scopes, vectors, strict=True):
            with self._lock:
                self._drop(id)
                place = self._place(Scope.parse(scope))
                place.put(id, scope, vector)
                self._place_of[id] = place
                if place.graph:
                    place.graph.put([id], vector[None])
                self._note(place, id)

    def drop(self, ids: Collection[int]) -> None:
        """Remove those that are there."""
        for id in ids:
            with self._lock:
                self._drop(id)

    def search(self, query: Vectors, view: View, k: int, without: Collection[int] = ()) -> Found:
        """The k nearest that the view shows, and their cosines. query: [dim], unit."""
        with self._lock:
            parts = [self._nearest(place, scopes, query, k + len(without)) for place, scopes in self._visible(view)]
        ids = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in parts)])
        cosines = np.concatenate([np.zeros(0, np.float32), *(cosines for _, cosines in parts)])
        kept = ~np.isin(ids, list(without))
        return _best(ids[kept], cosines[kept], k)

    def vectors(self, ids: Sequence[int]) -> tuple[list[int], Vectors]:
        """Those of the ids that have a vector, in order, and the vectors [n, dim]."""
        with self._lock:
            known = [id for id in ids if id in self._place_of]
            found = [self._place_of[id].vector(id) for id in known]
        return known, np.array(found, np.float32).reshape(-1, self.dim)

    def _nearest(self, place: Place, scopes: Collection[str] | None, query: Vectors, k: int) -> Found:
        if scopes is None and place.graph and (found := place.graph.search(query, k)):
            return found
        ids, vectors = place.rows(scopes)
        return _best(ids, dots(vectors, query), k)

    def _visible(self, view: View) -> Iterator[tuple[Place, Collection[str] | None]]:
        """Places, and which scopes of each may be seen; None for all that it has."""
        if view.everything:
            return ((place, None) for place in self._places.values())
        wanted: defaultdict[str, set[str]] = defaultdict(set)
        for scope in view.scopes:
            wanted[_place_name(Scope.parse(scope))].add(scope)
        for group in self._groups_of.get(view.owner or "", ()):
            wanted[f"group:{group}"].add(f"member:{view.owner}@{group}")
        if view.group:
            name = f"group:{view.group}"
            wanted[name] |= self._places[name].scopes - {name} if name in self._places else set()
        found = ((self._places[name], scopes) for name, scopes in wanted.items() if name in self._places)
        return ((place, None if place.scopes <= scopes else scopes) for place, scopes in found)

    def _place(self, scope: Scope) -> Place:
        name = _place_name(scope)
        if scope.kind == "member":
            self._groups_of[scope.owner].add(scope.group)
        if name not in self._places:
            self._places[name] = Place(name, self.dim)
        return self._places[name]

    def _drop(self, id: int) -> None:
        place = self._place_of.pop(id, None)
        if place:
            place.drop(id)
            if place.graph:
                place.graph.drop([id])
            self._note(place, id)

    def _note(self, place: Place, id: int) -> None:
        place.unsaved += 1
        if place.touched is not None:
            place.touched.add(id)

    # Graphs

    def build(self, go_on: threading.Event) -> None:
        """Make the graphs that large places lack, from their snapshots if they are good, and write new ones.

        Takes up to minutes; ends early when `go_on` is cleared.
        """
        with self._building:
            with self._lock:
                large = [place for place in self._places.values() if len(place) > self._limit and not place.graph]
            for place in large:
                self._build(place, go_on)

    def save(self, at_least: int = 1) -> None:
        """Write snapshots of the graphs that have changed at least so often since the last one."""
        with self._lock:
            for place in self._places.values():
                if place.graph and place.unsaved >= at_least:
                    place.graph.save(self._manifest(place), self.space)
                    place.unsaved = 0

    def _build(self, place: Place, go_on: threading.Event) -> None:
        with self._lock:
            ids, vectors = place.rows()
            ids, vectors = ids.copy(), vectors.copy()
            place.touched = set()
        graph = Graph.load(self._manifest(place), self.space, self.dim) or Graph.empty(self.dim, len(ids) * 5 // 4)
        changes = 0
        for step in graph.reconciling(ids.tolist(), vectors):
            changes += step
            if not go_on.is_set():
                place.touched = None
                return
        with self._lock:
            self._take_over(place, graph, changes)

    def _take_over(self, place: Place, graph: Graph, changes: int) -> None:
        """Give the place its graph, up to date with what has changed since its vectors were copied."""
        for id in place.touched or ():
            graph.drop([id])
            if id in place:
                graph.put([id], place.vector(id)[None])
        place.unsaved = changes + len(place.touched or ())
        place.graph, place.touched = graph, None

    def _manifest(self, place: Place) -> Path:
        return self.folder / f"{place.name.replace(':', '-')}.json"


def _place_name(scope: Scope) -> str:
    return f"group:{scope.group}" if scope.kind == "member" else str(scope)


def _best(ids: NDArray[np.int64], cosines: Vectors, k: int) -> Found:
    """Equal ones by id."""
    if len(ids) > k:
        top = np.argpartition(-cosines, k)[:k]
        ids, cosines = ids[top], cosines[top]
    order = np.lexsort((ids, -cosines))
    return ids[order], cosines[order]
