"""An encoder that a test can foresee, and break."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from qqmem.memory.types import Vectors

DIM = 64


def letters(text: str) -> Vectors:
    """[DIM]: texts that share pairs of characters are near each other; none is zero."""
    vector = np.full(DIM, 0.01, np.float32)
    for pair in zip(f" {text}", text, strict=False):
        vector[hashlib.blake2b("".join(pair).encode()).digest()[0] % DIM] += 1
    return vector


class Letters:
    """Encodes by letters. fault: called with the texts before each batch, to raise; `made` is what was encoded."""

    def __init__(self, space: str = "letters", fault: Callable[[Sequence[str]], None] = lambda _: None) -> None:
        self.space = space
        self.dim = DIM
        self.fault = fault
        self.made: list[str] = []

    async def keys(self, texts: Sequence[str]) -> Vectors:
        self.fault(texts)
        self.made += texts
        return np.array([letters(text) for text in texts])

    async def queries(self, texts: Sequence[str]) -> Vectors:
        self.fault(texts)
        return np.array([letters(text) for text in texts])
