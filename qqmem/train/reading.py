"""A second adapter, which acts only while a memory is read: from its pad up to before `</recall>`.

What it learns by heart cannot change how anything else is written. Adapters that act on some tokens of a sequence: as
the activated LoRA of Greenewald et al. 2025 (arXiv:2504.12397), which ends with the turn where this one ends with the
memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from qqmem.engine.types import RecallTokens
from qqmem.train.packing import Row

NAME = "reading"
"""Of the adapter, and of the folder in which peft puts it."""


class Reading:
    """The adapter on those linear layers that have one already. It begins as nothing. rank: from 1."""

    def __init__(self, peft: PeftModel, rank: int, targets: Sequence[str]) -> None:
        self._places = torch.zeros(0, dtype=torch.long)
        self._tokens = 0
        layers = {name: one for name, one in peft.get_base_model().named_modules() if isinstance(one, LoraLayer)}
        peft.add_adapter(NAME, lora(rank, [name for name in layers if name.rpartition(".")[2] in targets]))
        cast(Any, peft.base_model).set_adapter(["default", NAME])
        for layer in layers.values():
            if NAME in layer.lora_A:
                layer.lora_A[NAME].register_forward_pre_hook(self._gather)
                layer.lora_B[NAME].register_forward_hook(self._scatter)

    def act_on(self, row: Row, tokens: RecallTokens) -> None:
        """Act in these places of the row that comes next, and of no other."""
        self._places = torch.tensor(reads(row, tokens), dtype=torch.long, device=row.ids.device)
        self._tokens = len(row.ids)

    def _gather(self, _: object, given: tuple[Tensor]) -> Tensor:
        return given[0].index_select(1, self._places)

    def _scatter(self, _: object, given: tuple[Tensor], made: Tensor) -> Tensor:
        return made.new_zeros(1, self._tokens, made.shape[2]).index_copy(1, self._places, made)


def lora(rank: int, targets: Sequence[str]) -> LoraConfig:
    """Of an adapter as all of ours are. targets: names of the layers, as the model has them."""
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), lora_dropout=0.0, bias="none")


def reads(row: Row, tokens: RecallTokens) -> list[int]:
    """The places of a row in which a memory is being read."""
    return [
        row.at(n, place)
        for n, one in enumerate(row.examples)
        if one.pad >= 0
        for place in range(one.pad, one.ids.index(tokens.close, one.pad))
    ]
