"""Approximate search in one large place: an HNSW graph, and its snapshot on disk.

HNSW: Malkov and Yashunin 2018, arXiv:1603.09320. A graph is a cache: whoever owns it keeps the vectors too.
Nothing here may run at the same time as anything else on the same graph.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import hnswlib
import numpy as np
from numpy.typing import NDArray

from qqmem.memory.types import Vectors

# With these recall@10 is above .99 at 100,000 vectors of 384 dims (benchmarks/search.py).
_LINKS = 24
_EF_CONSTRUCTION = 200
_EF = 256

_FORMAT = 1
_STEP = 64


class Graph:
    """Ids and unit vectors, found by cosine."""

    def __init__(self, dim: int, graph: hnswlib.Index) -> None:
        self._dim = dim
        self._graph = graph
        graph.set_num_threads(1)
        # Labels are our own and never used twice: hnswlib refuses to add again what was deleted under the same one.
        self._label_of: dict[int, int] = {}
        self._id_of: dict[int, int] = {}
        self._next = 0

    @classmethod
    def empty(cls, dim: int, capacity: int = 1024) -> Self:
        """With room for so many at first."""
        graph = hnswlib.Index("ip", dim)
        graph.init_index(capacity, M=_LINKS, ef_construction=_EF_CONSTRUCTION, allow_replace_deleted=True)
        return cls(dim, graph)

    def __len__(self) -> int:
        return len(self._label_of)

    def put(self, ids: Sequence[int], vectors: Vectors) -> None:
        """Add, or replace. vectors: [n, dim], unit; ids: no duplicates."""
        if not len(ids):
            return
        self.drop(ids)
        labels = range(self._next, self._next + len(ids))
        self._next += len(ids)
        self._grow(len(ids))
        self._graph.add_items(vectors, list(labels), num_threads=1, replace_deleted=True)
        self._label_of.update(zip(ids, labels, strict=True))
        self._id_of.update(zip(labels, ids, strict=True))

    def drop(self, ids: Collection[int]) -> None:
        """Forget those that are known. Their vectors are overwritten, so that no snapshot has them."""
        for label in [self._label_of.pop(id) for id in ids if id in self._label_of]:
            del self._id_of[label]
            self._graph.add_items(np.zeros((1, self._dim), np.float32), [label], num_threads=1)
            self._graph.mark_deleted(label)

    def search(self, query: Vectors, k: int) -> tuple[NDArray[np.int64], Vectors] | None:
        """The ids of the k nearest or so, and their cosines, best first. None if the graph has come apart."""
        k = min(k, len(self))
        if k == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        self._graph.set_ef(max(_EF, k))  # not kept in its file
        try:
            labels, distances = self._graph.knn_query(query, k, num_threads=1)
        except RuntimeError:  # fewer than k can be reached
            return None
        return np.array([self._id_of[label] for label in labels[0].tolist()], np.int64), 1 - distances[0]

    def reconcile(self, ids: Sequence[int], vectors: Vectors) -> int:
        """Make it hold exactly these. Returns how many had to be put or dropped."""
        changes = list(self.reconciling(ids, vectors))
        return sum(changes)

    def reconciling(self, ids: Sequence[int], vectors: Vectors) -> Iterator[int]:
        """The same in small steps; yields how many had to be put or dropped in each."""
        gone = list(self._label_of.keys() - set(ids))
        for step in range(0, len(gone), _STEP):
            self.drop(gone[step : step + _STEP])
            yield len(gone[step : step + _STEP])
        for step in range(0, len(ids), _STEP):
            part, wanted = ids[step : step + _STEP], vectors[step : step + _STEP]
            rows = np.flatnonzero(~self._has(part, wanted))
            self.put([part[row] for row in rows.tolist()], wanted[rows])
            yield len(rows)

    def _has(self, ids: Sequence[int], vectors: Vectors) -> NDArray[np.bool_]:
        """Of each, whether it is known with this very vector."""
        labels = [self._label_of.get(id) for id in ids]
        known = [label for label in labels if label is not None]
        same = np.array([label is not None for label in labels])
        if known:
            same[same] = (self._graph.get_items(known) == vectors[same]).all(axis=1)
        return same

    def _grow(self, num: int) -> None:
        """Make room: deleted places are used again first, but only hnswlib knows how many there are."""
        used, capacity = self._graph.get_current_count(), self._graph.get_max_elements()
        if used + num > capacity:
            self._graph.resize_index(max(used + num, capacity * 3 // 2))

    # Snapshots: the graph as hnswlib writes it, and then a manifest that names it, by one rename.

    def save(self, manifest: Path, space: str) -> None:
        """Write a snapshot; whatever happens, the one before it or this one is there."""
        manifest.parent.mkdir(parents=True, exist_ok=True)
        aside = manifest.with_suffix(".new")
        self._graph.save_index(str(aside))
        _sync(aside)
        name = f"{manifest.stem}.{_digest(aside)}.graph"
        os.replace(aside, manifest.with_name(name))
        labels = {"labels": list(self._id_of), "ids": list(self._id_of.values()), "next": self._next}
        about = {"format": _FORMAT, "space": space, "dim": self._dim, "graph": name, **labels}
        aside.write_text(json.dumps({**about, "sum": _sum(about)}), encoding="ascii")
        _sync(aside)
        os.replace(aside, manifest)
        _sync(manifest.parent)
        _remove_others(manifest, name)

    @classmethod
    def load(cls, manifest: Path, space: str, dim: int) -> Self | None:
        """The graph of a snapshot; None if it is missing, damaged, or of another space."""
        try:
            about = json.loads(manifest.read_text(encoding="ascii"))
            path = manifest.with_name(about["graph"])
            wanted = {"format": _FORMAT, "space": space, "dim": dim, "graph": f"{manifest.stem}.{_digest(path)}.graph"}
            if about.pop("sum") != _sum(about) or any(about[key] != value for key, value in wanted.items()):
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return cls._of(path, about, dim)

    @classmethod
    def _of(cls, path: Path, about: dict[str, Any], dim: int) -> Self | None:
        found = hnswlib.Index("ip", dim)
        try:
            found.load_index(str(path), allow_replace_deleted=True)
        except RuntimeError:
            return None
        graph = cls(dim, found)
        graph._id_of = dict(zip(about["labels"], about["ids"], strict=True))
        graph._label_of = {id: label for label, id in graph._id_of.items()}
        graph._next = about["next"]
        return graph


def forget_snapshots(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove the folders of snapshots that are not to be kept."""
    if folder.is_dir():
        for other in folder.iterdir():
            if other.name not in keep:
                shutil.rmtree(other, ignore_errors=True)


def _remove_others(manifest: Path, name: str) -> None:
    for old in manifest.parent.glob(f"{manifest.stem}.*.graph"):
        if old.name != name:
            old.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _sum(about: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
