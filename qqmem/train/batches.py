"""Epochs cut into batches, and batches gathered into steps. Pure: a step's number says what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import TypeVar

from qqmem.train.data import Example

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """epoch: makes the examples of an epoch, by its number. size: of a batch. accumulation: batches of a step."""

    epoch: Callable[[int], Sequence[Example]]
    batches: int
    epochs: int
    accumulation: int

    @classmethod
    def of(cls, epoch: Callable[[int], Sequence[Example]], size: int, epochs: int, accumulation: int) -> Plan:
        """Every epoch has as many batches as the first, whatever it holds."""
        return cls(epoch, ceil(len(epoch(0)) / size), epochs, accumulation)

    @property
    def steps(self) -> int:
        return ceil(self.epochs * self.batches / self.accumulation)

    def run(self, done: int, index: int, of: int) -> Iterator[list[list[Example]]]:
        """What process `index` of `of` learns from in each step behind the first `done`: its part of each batch."""
        number, cut = -1, list[list[Example]]()
        for step in range(done, self.steps):
            taken = []
            first = step * self.accumulation
            for batch in range(first, min(first + self.accumulation, self.epochs * self.batches)):
                if number != batch // self.batches:
                    number = batch // self.batches
                    cut = split(self.epoch(number), self.batches)
                taken.append(share(cut[batch % self.batches], index, of))
            yield taken


def split(examples: Sequence[Example], count: int) -> list[list[Example]]:
    """Cut an epoch into `count` batches of nearly the same size, none of them empty."""
    ends = [len(examples) * n // count for n in range(count + 1)]
    return [list(examples[a:b]) or [examples[a % len(examples)]] for a, b in pairwise(ends)]


def share(batch: Sequence[Example], index: int, of: int) -> list[Example]:
    """What process `index` of `of` takes of a batch: never nothing, or the others would wait for it forever."""
    return list(batch[index::of]) or [batch[index % len(batch)]]


def some(items: Sequence[T], most: int) -> Sequence[T]:
    """So many of them, from all over."""
    return [items[n * len(items) // most] for n in range(most)] if len(items) > most else items
