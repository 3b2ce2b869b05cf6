"""The language model's loss at some places only, without ever holding the logits of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK = 128
"""Places whose logits exist at one time: of Qwen's vocabulary, 78 MB."""


@dataclass(frozen=True, slots=True)
class Aims:
    """What is wanted at each of n places. All [n]; no gradient flows through any of it.

    labels: the next token, -1 for none. weights: of its cross-entropy. base: the row of `base_states` whose
    distribution is to be kept, -1 for none. keep: weight of the divergence from it.
    """

    labels: Tensor
    weights: Tensor
    base: Tensor
    keep: Tensor


def judge(
    states: Tensor, rows: Tensor, matrix: Tensor, tokens: Tensor, aims: Aims, base_states: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Total loss, and of each place the cross-entropy and KL(base || model), [n] each, in nats.

    states: [n, hidden]. matrix: [vocab, hidden], frozen; where it has `tokens` [3], `rows` [3, hidden] count instead.
    base_states: [m, hidden] of the base; its logits are those of the matrix alone.

    The gradient is known as soon as the logits are (softmax minus target), so it is taken in the forward pass, chunk
    by chunk, and nothing of the size of the vocabulary is kept: the idea of fused cross-entropy (Cut Cross-Entropy,
    arXiv 2411.09009; Liger, arXiv 2410.10989), here with a divergence and replaced rows.
    """
    judged: Any = _Judged.apply
    total, ce, kl = judged(states, rows, matrix, tokens, aims, base_states)
    return total, ce, kl


class _Judged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, rows: Tensor, matrix: Tensor, tokens: Tensor, aims: Aims, base_states: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad, grad_rows = torch.empty_like(states), torch.zeros_like(rows)
        ce, kl = (torch.zeros(len(states), device=states.device) for _ in range(2))
        for at in torch.arange(len(states), device=states.device).split(CHUNK):
            h = states[at]
            logits = (h.to(matrix) @ matrix.T).float()
            logits[:, tokens] = h.float() @ rows.T
            log_p = logits.log_softmax(-1)
            slope = log_p.exp() * (aims.weights[at] + aims.keep[at])[:, None]
            labelled = aims.labels[at] >= 0
            label = aims.labels[at].clamp(min=0)[:, None]
            ce[at] = torch.where(labelled, -log_p.gather(1, label)[:, 0], 0)
            slope.scatter_add_(1, label, torch.where(labelled, -aims.weights[at], 0)[:, None])
            if bool((kept := aims.base[at] >= 0).any()):
                base = base_states[aims.base[at][kept]]
                log_q = (base.to(matrix) @ matrix.T).float().log_softmax(-1)
                q = log_q.exp()
                kl[at[kept]] = (q * (log_q - log_p[kept])).sum(-1)
                slope[kept] -= q * aims.keep[at][kept][:, None]
            ours = slope[:, tokens]
            grad_rows += ours.T @ h.float()
            slope[:, tokens] = 0
            grad[at] = ((slope.to(matrix) @ matrix).float() + ours @ rows).to(grad)
        ctx.save_for_backward(grad, grad_rows)
        ctx.mark_non_differentiable(ce, kl)
        return (ce * aims.weights + kl * aims.keep).sum(), ce, kl

    @staticmethod
    def backward(ctx: Any, total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad, grad_rows = ctx.saved_tensors
        return grad * total.to(grad), grad_rows * total, None, None, None, None
