"""From written characters to channels: what is thought, what is said, what is done, and where the text stops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from qqmem.engine.types import Channel

_TAGS: Mapping[Channel, Mapping[str, Channel]] = {
    "think": {"</think>": "reply", "<think>": "think"},
    "reply": {"<think>": "think", "</think>": "reply", "<action>": "action"},
    "action": {"</action>": "reply"},
}
"""For each channel the tags that are looked for in it, and the channel that follows. Tags are never part of the
text. They are matched as text, since `<think>` is one token for some models and four for others."""


class Channels:
    """Splits a text, as it is written, by tags and stop strings; what may yet become one of them is held back.

    The concatenated output does not depend on how the text was cut into pushes.
    """

    def __init__(self, channel: Channel = "reply", stop: Iterable[str] = ()) -> None:
        self.channel = channel
        self.stopped = False
        self._stop = tuple(stop)
        self._held = ""
        self._replied = False

    def push(self, text: str) -> Iterator[tuple[str, Channel]]:
        """Yield what is certain by now, in pieces of one channel each."""
        self._held += text
        while not self.stopped and (found := self._first()) is not None:
            at, mark = found
            yield from self._emit(at)
            self._held = self._held[len(mark) :]
            if mark in self._stop:
                self.stopped = True
                self._held = ""
            else:
                self.channel = _TAGS[self.channel][mark]
        if not self.stopped:
            yield from self._emit(len(self._held) - self._unsure())

    def flush(self) -> Iterator[tuple[str, Channel]]:
        """Yield what was held back; nothing more will be pushed."""
        yield from self._emit(len(self._held))

    def _marks(self) -> tuple[str, ...]:
        return (*_TAGS[self.channel], *self._stop)

    def _first(self) -> tuple[int, str] | None:
        """The leftmost tag or stop string that is there; of several at one place the longest."""
        found = [(self._held.find(mark), -len(mark), mark) for mark in self._marks()]
        at, _, mark = min((hit for hit in found if hit[0] >= 0), default=(-1, 0, ""))
        return (at, mark) if at >= 0 else None

    def _unsure(self) -> int:
        """Length of the longest end of the held text with which a tag or stop string may begin."""
        longest = min(len(self._held), max(map(len, self._marks())) - 1)
        for size in range(longest, 0, -1):
            if any(mark.startswith(self._held[-size:]) for mark in self._marks()):
                return size
        return 0

    def _emit(self, size: int) -> Iterator[tuple[str, Channel]]:
        text, self._held = self._held[:size], self._held[size:]
        if self.channel == "reply" and not self._replied:
            text = text.lstrip()  # models put blank lines between thinking and reply
            self._replied = bool(text)
        if text:
            yield text, self.channel
