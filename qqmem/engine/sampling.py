"""From logits to the next token of one sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qqmem.engine.types import Sampling


class Sampler:
    """Draws the tokens of one sequence, by its own generator: a seed repeats whatever else runs beside it.

    The order is that of transformers' `generate`: penalties, temperature, top-k, top-p, min-p, draw.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], device: torch.device) -> None:
        self._sampling = sampling
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        self._said = torch.empty(0, dtype=torch.long, device=device)
        self._seen = self._said
        if sampling.repetition_penalty != 1.0:
            self._seen = torch.tensor(sorted(set(prompt)), dtype=torch.long, device=device)

    def sample(self, logits: Tensor) -> int:
        """Draw a token. logits: [vocab], any float type."""
        logits = self._penalised(logits.to(self._said.device).float())  # the model may have moved meanwhile
        if self._sampling.temperature == 0.0:
            return self._note(int(logits.argmax()))
        candidates, tokens = logits.topk(min(self._sampling.top_k or len(logits), len(logits)))
        weights = torch.softmax(candidates / self._sampling.temperature, -1)
        kept = self._filtered(weights)
        drawn = torch.multinomial(kept, 1, generator=self._generator)
        return self._note(int(tokens[drawn]))

    def _penalised(self, logits: Tensor) -> Tensor:
        sampling = self._sampling
        if sampling.repetition_penalty != 1.0:
            seen = logits[self._seen]
            harsher = torch.where(seen > 0, seen / sampling.repetition_penalty, seen * sampling.repetition_penalty)
            logits = logits.index_copy(0, self._seen, harsher)
        if sampling.presence_penalty != 0.0:
            lowered = logits[self._said] - sampling.presence_penalty
            logits = logits.index_copy(0, self._said, lowered)
        return logits

    def _filtered(self, weights: Tensor) -> Tensor:
        """Zero what top-p and min-p leave out. weights: descending, sum 1. The best token always stays."""
        sampling = self._sampling
        if sampling.top_p < 1.0:
            before = weights.cumsum(-1) - weights
            weights = weights.masked_fill(before >= sampling.top_p, 0.0)
        if sampling.min_p > 0.0:
            weights = weights.masked_fill(weights < sampling.min_p * weights[0], 0.0)
        return weights

    def _note(self, token: int) -> int:
        new = self._said.new_tensor([token])
        if self._sampling.presence_penalty != 0.0 and not bool((self._said == token).any()):
            self._said = torch.cat([self._said, new])
        if self._sampling.repetition_penalty != 1.0 and not bool((self._seen == token).any()):
            self._seen = torch.cat([self._seen, new])
        return token
