"""What the bridge counts, and how a chat is named in a log."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

COUNTED = (
    "received", "duplicates", "ignored", "malformed", "handed_on", "withdrawn", "deliveries", "sent", "failed",
    "unknown", "looked_up", "pictures", "pictures_missing", "rounds_capped", "service_errors", "apologies",
    "reply_milliseconds",
)  # fmt: skip


class Counters:
    """Totals since the start, by name."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))

    def add(self, name: str, by: int = 1) -> None:
        if name not in self._totals:
            raise KeyError(name)
        self._totals[name] += by

    def __getitem__(self, name: str) -> int:
        return self._totals[name]

    def all(self) -> dict[str, int]:
        return dict(self._totals)


def hidden(chat: str) -> str:
    """A chat as logs name it: its kind and a few letters that stay the same."""
    return f"{chat.partition(':')[0]}#{sha256(chat.encode()).hexdigest()[:8]}"
