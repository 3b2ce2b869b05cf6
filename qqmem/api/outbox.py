"""What waits to be sent to one client that may read slowly."""

from __future__ import annotations

import asyncio
from collections import deque

from qqmem.api import frames

MOST_WAITING = 1000
"""Frames that may wait for the client to read before no more of its own are taken."""


class Outbox:
    """Frames that wait to be sent. Tokens of one turn that wait together are one frame.

    So it holds no more than the texts of the replies that the socket waits for, and MOST_WAITING other frames:
    who puts in what a client asked for, waits for room() first.
    """

    def __init__(self) -> None:
        self._frames: deque[frames.ServerFrame] = deque()
        self._growing: dict[int, frames.TokenFrame] = {}
        self._closed = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: frames.ServerFrame) -> None:
        if isinstance(frame, frames.TokenFrame):
            last = self._growing.get(frame.turn)
            if last is not None and last.channel == frame.channel:
                last.text += frame.text
                last.n = frame.n
                return
            self._growing[frame.turn] = frame
        elif isinstance(frame, frames.RecallFrame):
            self._growing.pop(frame.turn, None)  # what is written behind a recall comes behind it
        self._frames.append(frame)
        self._filled.set()
        if len(self) >= MOST_WAITING:
            self._room.clear()

    async def take(self) -> frames.ServerFrame | None:
        """The oldest frame; None once it is closed and empty."""
        while not self._frames:
            if self._closed:
                return None
            self._filled.clear()
            await self._filled.wait()
        frame = self._frames.popleft()
        if isinstance(frame, frames.TokenFrame) and self._growing.get(frame.turn) is frame:
            del self._growing[frame.turn]
        if len(self) < MOST_WAITING:
            self._room.set()
        return frame

    async def room(self) -> None:
        """Wait until fewer than MOST_WAITING frames wait."""
        await self._room.wait()

    def close(self) -> None:
        """Nothing more will be put in."""
        self._closed = True
        self._filled.set()
