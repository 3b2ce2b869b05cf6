"""Examples as one row [1, tokens], as the engine runs them: no padding, and what many begin with is read once.

Examples of one frame share their first tokens (`Example.shared`): those lie in the row once, and each example follows
with its own tokens, which see them and themselves. Gradients of all flow through the one prefix.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from qqmem.engine.attention import attend
from qqmem.train.data import Example


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [start, end) of a row, which see the tokens of `prefix` and, causally, each other.

    mask: [end - start, prefix and own tokens].
    """

    start: int
    end: int
    prefix: tuple[int, int]
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """Examples in one row. ids, positions: [tokens]. places: where the prefix and the own tokens of each begin."""

    examples: tuple[Example, ...]
    ids: Tensor
    positions: Tensor
    spans: tuple[Span, ...]
    places: tuple[tuple[int, int], ...]

    def at(self, example: int, place: int) -> int:
        """Where in the row a token of an example lies."""
        prefix, own = self.places[example]
        shared = self.examples[example].shared
        return prefix + place if place < shared else own + place - shared


def pack(examples: Sequence[Example], device: torch.device | str = "cpu") -> Row:
    """Lay examples behind each other, those of one frame behind their prefix."""
    frames: dict[tuple[int, ...], list[Example]] = defaultdict(list)
    for example in examples:
        frames[example.ids[: example.shared]].append(example)
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    ordered: list[Example] = []
    places: list[tuple[int, int]] = []

    def put(tokens: Sequence[int], prefix: tuple[int, int]) -> int:
        start, before = len(ids), prefix[1] - prefix[0]
        ids.extend(tokens)
        positions.extend(range(before, before + len(tokens)))
        mask = torch.ones(len(tokens), before + len(tokens), dtype=torch.bool, device=device).tril(before)
        spans.append(Span(start, len(ids), prefix, mask))
        return start

    for shared, frame in frames.items():
        first = put(shared, (0, 0)) if shared else 0
        for example in frame:
            places.append((first, put(example.ids[len(shared) :], (first, first + len(shared)))))
        ordered += frame
    return Row(
        tuple(ordered),
        torch.tensor(ids, device=device),
        torch.tensor(positions, device=device),
        tuple(spans),
        tuple(places),
    )


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float | None = None,
    spans: Sequence[Span] = (),
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of a packed row. query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim].

    Returns [1, tokens, heads, dim], as transformers' attention functions do.
    """
    outputs = []
    for span in spans:
        own, before = slice(span.start, span.end), slice(*span.prefix)
        keys, values = (torch.cat([one[0, :, before], one[0, :, own]], 1) for one in (key, value))
        outputs.append(attend(query[0, :, own], keys, values, span.mask, scaling))
    return torch.cat(outputs, 1).transpose(0, 1)[None], None


AttentionInterface.register("packed", packed_attention)
