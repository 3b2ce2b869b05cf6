"""Figures with 95 % intervals: percentile bootstrap over dialogues (Efron and Tibshirani 1993).

What is said in one dialogue is alike, so whole dialogues are drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_RESAMPLES = 2_000
_ENDS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Figure:
    """A value and its interval; all NaN where there was nothing to measure."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "-" if math.isnan(self.value) else f"{self.value:.3f} [{self.low:.2f} {self.high:.2f}]"

    def as_json(self) -> list[float] | None:
        return None if math.isnan(self.value) else [self.value, self.low, self.high]


class Draws:
    """The draws of all figures of one report. dialogues: of each measured thing, the name of its dialogue."""

    def __init__(self, dialogues: Sequence[str]) -> None:
        numbers: dict[str, int] = {}
        self._dialogues = np.array([numbers.setdefault(name, len(numbers)) for name in dialogues], np.int64)
        self.num = len(numbers)
        """Of dialogues."""
        self._drawn = np.random.default_rng(0).integers(self.num, size=(_RESAMPLES, self.num))

    def mean(self, values: ArrayLike) -> Figure:
        """Of one value for each thing."""
        return self.ratio(values, np.ones(len(self._dialogues)))

    def ratio(self, above: ArrayLike, below: ArrayLike) -> Figure:
        """One sum over another, of values for each thing. Draws in which there is nothing below do not count."""
        sums = [np.bincount(self._dialogues, np.asarray(values, float), self.num) for values in (above, below)]
        if not sums[1].any():
            return Figure(math.nan, math.nan, math.nan)
        tops, bottoms = (one[self._drawn].sum(axis=1) for one in sums)
        low, high = np.quantile(tops[bottoms > 0] / bottoms[bottoms > 0], _ENDS)
        return Figure(float(sums[0].sum() / sums[1].sum()), float(low), float(high))
