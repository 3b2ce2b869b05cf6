"""The small trained part of recalls: three rows of the embedding, the query head, and the gain of the injection."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qqmem.engine.types import RecallTokens, Vector


class Injection:
    """From a hidden state to a query, and from a memory's vector to an input embedding.

    head: [hidden, hidden], None is the identity. gain: on the model's mean embedding norm; a unit vector times
    both is as long as the embeddings that the model was trained on.
    """

    def __init__(self, embedding: nn.Embedding, head: Tensor | None = None, gain: float = 1.0) -> None:
        self._head = None if head is None else head.to(embedding.weight.device, torch.float32)
        self._embedding = embedding
        # Over a part of the rows: the mean norm is the same to three digits, and all of them are half a gigabyte.
        self._scale = gain * float(embedding.weight[::16].detach().float().norm(dim=-1).mean())

    def move(self, device: torch.device) -> None:
        """Hold the head there. The embedding is not ours to move."""
        self._head = None if self._head is None else self._head.to(device)

    def query(self, state: Tensor) -> Vector:
        """[hidden], any float type, to what is looked for."""
        return vector(state if self._head is None else self._head @ state.float())

    def embedding(self, value: Vector) -> Tensor:
        """A unit vector as an input embedding [hidden], of the model's own type."""
        return (torch.tensor(value) * self._scale).to(self._embedding.weight)


def vector(state: Tensor) -> Vector:
    """[hidden] as float32 outside torch."""
    return cast(Vector, state.float().cpu().numpy())


def begin_rows(model: PreTrainedModel, tokens: RecallTokens, described: dict[int, list[int]]) -> None:
    """Give the rows of untrained tokens a meaning: the mean of the rows of their plain text.

    described: for each token of RecallTokens its plain text in tokens. Input and output rows, tied or not.
    """
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = {id(weight): weight for layer in layers if isinstance(weight := getattr(layer, "weight", None), Tensor)}
    with torch.no_grad():
        for weight in weights.values():
            for token in tokens:
                weight[token] = weight[described[token]].float().mean(0)
