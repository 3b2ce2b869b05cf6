from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from qqmem.memory.embed import unit
from qqmem.memory.projection import project
from qqmem.memory.types import Vectors


def random(n: int, dim: int, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@example(n=2, dim=2, seed=0, rank=1)  # a share that rounds below nothing
@given(n=st.integers(0, 30), dim=st.integers(1, 20), seed=st.integers(0, 9), rank=st.integers(0, 20))
def test_the_picture_fits_its_frame_and_is_the_same_each_time(n: int, dim: int, seed: int, rank: int) -> None:
    vectors = unit(random(n, rank, seed) @ random(rank, dim, seed + 1))
    places, (x, y) = project(vectors)
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()
    assert np.abs(places).max(initial=0) <= 1 + 1e-6
    assert 0 <= y <= x + 1e-4 <= 1 + 2e-4
    assert np.array_equal(places, project(vectors)[0])


@pytest.mark.parametrize(("n", "dim"), [(200, 64), (20, 64), (300, 8)])
def test_it_is_what_a_singular_value_decomposition_finds(n: int, dim: int) -> None:
    vectors = random(n, dim) * np.linspace(4, 1, dim, dtype=np.float32) ** 2
    places, explained = project(vectors)
    centred = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(explained, values[:2] ** 2 / (values**2).sum(), atol=1e-3)
    for axis in range(2):
        likeness = np.corrcoef(places[:, axis], left[:, axis])[0, 1]
        assert abs(likeness) > 0.99


def test_two_kinds_of_vectors_lie_apart() -> None:
    one, other = random(1, 64, 3), random(1, 64, 4)
    vectors = unit(np.concatenate([one + 0.2 * random(50, 64, 5), other + 0.2 * random(50, 64, 6)]))
    x = project(vectors)[0][:, 0]
    assert max(x[:50].max(), x[50:].max()) > 0 > min(x[:50].min(), x[50:].min())
    assert (x[:50].max() < x[50:].min()) or (x[50:].max() < x[:50].min())


def test_what_is_all_the_same_is_one_point() -> None:
    places, explained = project(np.repeat(unit(random(1, 16)), 5, axis=0))
    assert not places.any()
    assert explained == (0.0, 0.0)
