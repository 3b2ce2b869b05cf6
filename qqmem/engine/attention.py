"""Attention of a flat row: all tokens of all sequences lie behind each other, and each attends to its own sequence.

Registered with transformers as `flat`: it appends each segment's keys and values to its sequence's KV and attends
there. No padding, and no mask between sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from qqmem.engine.cache import KV


@dataclass(frozen=True, slots=True)
class Segment:
    """The `n` tokens of one sequence in a flat row; which of its keys each may see, None for all of them."""

    kv: KV
    n: int
    mask: Tensor | None

    @classmethod
    def of(cls, kv: KV, n: int, device: torch.device) -> Segment:
        """Causal: the tokens are the last `n` of the keys, [n, length + n]."""
        end = kv.length + n
        mask = None if n == 1 else torch.ones(n, end, dtype=torch.bool, device=device).tril(kv.length)
        return cls(kv, n, mask)


def flat_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float | None = None,
    segments: Sequence[Segment] = (),
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of a flat row. query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim].

    Returns [1, tokens, heads, dim], as transformers' attention functions do.
    """
    outputs, at = [], 0
    for segment in segments:
        here = slice(at, at + segment.n)
        keys, values = segment.kv.append(module.layer_idx, key[0, :, here], value[0, :, here])
        outputs.append(attend(query[0, :, here], keys, values, segment.mask, scaling))
        at += segment.n
    return torch.cat(outputs, 1).transpose(0, 1)[None], None


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """[heads, n, dim] over [kv_heads, end, dim].

    The heads that share a kv head are laid behind each other as so many more queries: one SDPA over kv_heads, without
    repeating the keys, and on a CPU four times as fast for one token as `enable_gqa` or two `bmm`.
    """
    heads, n, dim = query.shape
    group = heads // keys.shape[0]
    attended = nn.functional.scaled_dot_product_attention(
        query.reshape(1, -1, group * n, dim),
        keys[None],
        values[None],
        attn_mask=None if mask is None else mask.repeat(group, 1),
        scale=scaling,
    )
    return attended.view(heads, n, dim)


AttentionInterface.register("flat", flat_attention)
