"""The model itself as an encoder: the state in which it has summed a text up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from qqmem.engine.prompt import Prompts
from qqmem.engine.types import BACKGROUND, TURN, Tokenizer
from qqmem.engine.worker import Engine
from qqmem.memory.types import Vectors


class HiddenEncoder:
    """`memory.types.Encoder` over the engine: [n, hidden], the last state of the prompt part `summary`.

    model: its name. The space is of this model and this prompt.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, prompts: Prompts, model: str, dim: int) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._prompts = prompts
        prompt = hashlib.sha256(prompts.parts["summary"].encode()).hexdigest()[:8]
        self._space = f"hidden/{model}/{prompt}"
        self._dim = dim

    @property
    def space(self) -> str:
        return self._space

    @property
    def dim(self) -> int:
        return self._dim

    async def keys(self, texts: Sequence[str]) -> Vectors:
        """In the background: a person's turn goes first."""
        return await self._states(texts, BACKGROUND)

    async def queries(self, texts: Sequence[str]) -> Vectors:
        """A turn waits for them."""
        return await self._states(texts, TURN)

    async def _states(self, texts: Sequence[str], priority: int) -> Vectors:
        states = [await self._engine.encode(self._prompt(text), priority) for text in texts]
        return np.stack(states) if states else np.empty((0, self._dim), np.float32)

    def _prompt(self, text: str) -> list[int]:
        return self._tokenizer.render([("user", self._prompts.phrase("summary", text=text))])
