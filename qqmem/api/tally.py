"""How the last turns have gone, since the service began, for those who look at it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from qqmem.chat import Event, TurnEnded
from qqmem.engine.types import Timing

_LAST = 200


@dataclass(frozen=True, slots=True)
class Pace:
    """Of the last turns: seconds to the first token and to the end, median and 95th percentile; tokens a second."""

    count: int
    first_token: tuple[float, float]
    total: tuple[float, float]
    tokens_s: float


class Tally:
    """Counts turns by outcome, and keeps how long the last ones took."""

    def __init__(self) -> None:
        self.began = datetime.now(UTC)
        self.outcomes: Counter[str] = Counter()
        self._since = time.monotonic()
        self._last: deque[tuple[Timing, int]] = deque(maxlen=_LAST)

    @property
    def uptime(self) -> float:
        """Seconds."""
        return time.monotonic() - self._since

    def publish(self, event: Event) -> None:
        """Something happens in a turn."""
        if not isinstance(event, TurnEnded) or event.turn is None:
            return
        self.outcomes[event.outcome] += 1
        if event.timing.total:  # the engine has told it: the turn was not stopped
            self._last.append((event.timing, event.usage.completion))

    @property
    def pace(self) -> Pace | None:
        """None as long as no turn has come to its end."""
        if not self._last:
            return None
        timings = [timing for timing, _ in self._last]
        writing = sum(timing.total - timing.first_token for timing in timings)
        return Pace(
            count=len(timings),
            first_token=_percentiles([timing.first_token for timing in timings]),
            total=_percentiles([timing.total for timing in timings]),
            tokens_s=sum(tokens for _, tokens in self._last) / writing if writing else 0.0,
        )


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2], ordered[(len(ordered) - 1) * 95 // 100]
