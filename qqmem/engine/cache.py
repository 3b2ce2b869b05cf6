"""Keys and values of sequences, and what is kept of them between the turns of a conversation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 256


class KV:
    """Keys and values of one sequence, for each layer [2, kv_heads, capacity, head_dim]; `tokens` have been read.

    A forward appends behind `length` and `commit` makes that count, so a forward that failed leaves nothing.
    """

    def __init__(self, tokens: Sequence[int] = (), layers: dict[int, Tensor] | None = None) -> None:
        self.tokens = list(tokens)
        self._layers = layers if layers is not None else {}

    @property
    def length(self) -> int:
        """Tokens whose keys and values are here."""
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self._layers.values())

    def append(self, layer: int, keys: Tensor, values: Tensor) -> Tensor:
        """Write [kv_heads, n, head_dim] behind the cached tokens of a layer.

        Returns the layer up to the new end, [2, kv_heads, length + n, head_dim].
        """
        end = self.length + keys.shape[1]
        held = self._layers.get(layer)
        if held is None or held.shape[2] < end or held.device != keys.device:  # the model has moved
            held = self._layers[layer] = self._grown(held, keys, end)
        held[0, :, self.length : end] = keys
        held[1, :, self.length : end] = values
        return held[:, :, :end]

    def _grown(self, old: Tensor | None, like: Tensor, end: int) -> Tensor:
        # Half as much again, so that a long text is copied a few times only.
        capacity = max(end, 0 if old is None else old.shape[2] * 3 // 2)
        capacity = -(-capacity // _BLOCK) * _BLOCK
        new = like.new_empty(2, like.shape[0], capacity, like.shape[2])
        if old is not None:
            new[:, :, : self.length] = old[:, :, : self.length]
        return new

    def commit(self, tokens: Sequence[int]) -> None:
        """Count `tokens`, whose keys and values every layer has appended."""
        self.tokens.extend(tokens)

    def cut(self, length: int) -> None:
        """Forget all behind the first `length` tokens."""
        del self.tokens[length:]

    def copy(self, length: int) -> KV:
        """The first `length` tokens as a sequence of their own."""
        layers = {
            index: torch.nn.functional.pad(held[:, :, :length], (0, 0, 0, -length % _BLOCK))
            for index, held in self._layers.items()
        }
        return KV(self.tokens[:length], layers)


class PrefixCache:
    """The KV of conversations at rest, least recently used first, within a budget of bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[str, KV] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return sum(kv.nbytes for kv in self._kept.values())

    def take(self, conversation: str | None, prompt: Sequence[int]) -> KV:
        """A KV that holds the longest known prefix of the prompt, all but its last token at most.

        The conversation's own KV is handed over; a longer prefix of another's (a shared system prompt) is copied.
        """
        own = self._kept.pop(conversation, None) if conversation is not None else None
        shared = 0 if own is None else common_prefix(own.tokens, prompt)
        for other in self._kept.values():
            length = common_prefix(other.tokens, prompt)
            if length > shared:
                own, shared = other.copy(length), length
        if own is None:
            return KV()
        own.cut(min(shared, len(prompt) - 1))
        return own

    def keep(self, conversation: str, kv: KV) -> None:
        """Keep what a conversation has read, and drop the least recently used beyond the budget."""
        self._kept[conversation] = kv
        self._kept.move_to_end(conversation)
        total = self.nbytes
        while total > self._budget:
            _, dropped = self._kept.popitem(last=False)
            total -= dropped.nbytes

    def clear(self) -> None:
        """Drop everything: the weights that made it have changed, or the engine stops."""
        self._kept.clear()


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix, by bisection: comparing slices is far quicker than a loop."""
    a, b = list(a), list(b)
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
