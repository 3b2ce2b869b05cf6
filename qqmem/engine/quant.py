"""int8 weight-only linear layers for the CPU: a step of few tokens reads half the bytes and takes about a third.

Weights are quantised symmetrically, one scale for each output row; activations stay bfloat16. Above a number of
rows that is measured at load, the untouched bfloat16 weight is used, so prefill is as fast and as exact as before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ROWS = (1, 2, 4, 8, 16)


class Int8Linear(nn.Module):
    """Stands for an `nn.Linear`; inputs of up to `max_rows` rows go through the int8 weight.

    in_features, out_features and weight are those of the original, so peft may wrap it.
    """

    def __init__(self, linear: nn.Linear, max_rows: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.max_rows = max_rows
        self.weight_int8: Tensor
        self.scales: Tensor
        weight_int8, scales = quantise(linear.weight.detach())
        self.register_buffer("weight_int8", weight_int8, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        if len(rows) > self.max_rows:
            return nn.functional.linear(x, self.weight, self.bias)
        out = torch._weight_int8pack_mm(rows, self.weight_int8, self.scales)
        if self.bias is not None:
            out = out + self.bias
        return out.reshape(*x.shape[:-1], self.out_features)

    def refresh(self, rows: Sequence[int]) -> None:
        """Take over rows of the weight that have changed."""
        at = list(rows)
        self.weight_int8[at], self.scales[at] = quantise(self.weight.detach()[at])


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [out, in] -> int8 [out, in] and scales [out] in the weight's type; weight ≈ int8 * scale."""
    scales = weight.float().abs().amax(1).clamp(min=1e-8) / 127
    ints = (weight.float() / scales[:, None]).round().clamp(-127, 127).to(torch.int8)
    return ints, scales.to(weight.dtype)


def quantise_linears(model: nn.Module, max_rows: int) -> None:
    """Replace every linear layer of a model."""
    for name, linear in list(model.named_modules()):
        if type(linear) is nn.Linear:
            model.set_submodule(name, Int8Linear(linear, max_rows))


def crossover(model: nn.Module) -> int:
    """The number of rows up to which int8 is faster on this machine; 0: never.

    Measured on all layers of the shape that holds most weights: together they are more than any cache, as in decoding.
    """
    by_shape: dict[torch.Size, list[nn.Linear]] = {}
    for linear in (m for m in model.modules() if type(m) is nn.Linear):
        by_shape.setdefault(linear.weight.shape, []).append(linear)
    if not by_shape:
        return 0
    linears = max(by_shape.values(), key=lambda same: len(same) * same[0].weight.numel())
    packed = [Int8Linear(linear, _ROWS[-1]) for linear in linears]
    return max((rows for rows in _ROWS if _is_faster(packed, linears, rows)), default=0)


def _is_faster(packed: Sequence[nn.Module], linears: Sequence[nn.Linear], rows: int, rounds: int = 5) -> bool:
    """Compare the best of some rounds, taken in turns, so that a moment's load on the machine decides nothing."""
    x = torch.randn(rows, linears[0].in_features, dtype=linears[0].weight.dtype)
    times = [(_seconds(packed, x), _seconds(linears, x)) for _ in range(rounds)]
    return min(ours for ours, _ in times) < min(theirs for _, theirs in times)


def _seconds(layers: Sequence[nn.Module], x: Tensor) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        for layer in layers:
            layer(x)
    return time.perf_counter() - start
