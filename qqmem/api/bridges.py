"""The bridges that are connected: one connection each, woken when there is something for it to send."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from qqmem.api import wire_bridge as wire
from qqmem.api.problems import note
from qqmem.api.wire_system import BridgesHealth
from qqmem.chat import Event, TurnEnded, TurnStarted
from qqmem.deliveries import Deliveries, Delivery, Outcome
from qqmem.errors import QqmemError

log = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Frames that may wait for a bridge to read them."""
POKE_SECONDS = 60.0
"""Between two pokes of a conversation that are answered."""
LOOK_SECONDS = 60.0
"""How often deliveries are looked at that no bridge has asked for."""


class Link:
    """One connection. more: there may be something to deliver. replaced: another of this name has come.

    is_welcome: the first frame that it reads is on its way, so others may follow.
    """

    def __init__(self, name: str, self_id: str) -> None:
        self.name = name
        self.self_id = self_id
        self.frames: asyncio.Queue[wire.ServiceFrame] = asyncio.Queue(MOST_WAITING)
        self.is_welcome = False
        self.more = asyncio.Event()
        self.replaced = asyncio.Event()
        self.gone = asyncio.Event()


class Bridges:
    """All on the event loop. tell: what watchers are to see."""

    def __init__(self, deliveries: Deliveries, tell: Callable[[wire.BridgeLiveFrame], None]) -> None:
        self.deliveries = deliveries
        self.tell = tell
        self._links: dict[str, Link] = {}
        self._brought: dict[str, str] = {}
        """Bridges by conversation."""
        self._turns: dict[int, tuple[str, tuple[str, ...]]] = {}
        """Bridge and message ids of those that are being written."""
        self._poked: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._known, self._undelivered = 0, 0

    @property
    def connected(self) -> int:
        return len(self._links)

    @property
    def undelivered(self) -> int:
        """As last counted."""
        return self._undelivered

    @property
    def health(self) -> BridgesHealth | None:
        """None as long as no bridge has ever come."""
        if not self._known:
            return None
        return BridgesHealth(connected=self.connected, undelivered=self._undelivered)

    async def run(self) -> None:
        """Keep the counts, and let go of what is too old, until cancelled."""
        while True:
            await self.drop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    while True:
                        await self._changed.wait()
                        self._changed.clear()
                        await self.count()

    async def drop(self) -> None:
        """Let go of deliveries that are too old."""
        try:
            for delivery in await self.deliveries.drop(datetime.now(UTC)):
                log.warning("delivery %d of %s is too old and was not sent", delivery.id, delivery.bridge)
                self._over(delivery, "failed")
        except QqmemError as error:
            note(error)
        await self.count()

    async def count(self) -> None:
        """Count again what is undelivered. A database that cannot be read leaves it."""
        try:
            self._known, self._undelivered = await self.deliveries.count()
        except QqmemError as error:
            note(error)

    async def delivered(self, link: Link, frame: wire.DeliveredFrame) -> None:
        """A bridge tells what has become of a delivery."""
        ids = frame.message_ids
        ended = await self.deliveries.end(link.name, frame.delivery_id, frame.status, ids, frame.reason)
        if ended is not None:
            log.info("delivery %d of %s: %s", ended.id, ended.bridge, frame.status)
            self._over(ended, frame.status)
            self._changed.set()

    def may_answer_poke(self, conversation: str, now: float) -> bool:
        """Whether a poke there is answered now: not every one is. now: in seconds that only go forward."""
        if now - self._poked.get(conversation, -POKE_SECONDS) < POKE_SECONDS:
            return False
        self._poked = {one: since for one, since in self._poked.items() if now - since < POKE_SECONDS}
        self._poked[conversation] = now
        return True

    def publish(self, event: Event) -> None:
        """Something happens in a turn."""
        match event:
            case TurnStarted(conversation=conversation, message_ids=ids) if ids:
                if name := self._brought.get(conversation):
                    self._turns[event.turn] = name, ids
                    self._whisper(name, wire.TurnFrame(conversation=conversation, state="started", message_ids=ids))
            case TurnEnded(conversation=conversation):
                if event.turn in self._turns:
                    name, ids = self._turns.pop(event.turn)
                    outcome = event.outcome
                    self._whisper(
                        name,
                        wire.TurnFrame(conversation=conversation, state="ended", outcome=outcome, message_ids=ids),
                    )
                if event.outcome == "replied":
                    self._wake()

    def brings(self, link: Link, conversation: str) -> None:
        """Who is told of turns of a conversation."""
        self._brought[conversation] = link.name

    async def seat(self, link: Link) -> None:
        """Take the place of the bridge of this name, once whoever has it is gone."""
        while (other := self._links.get(link.name)) is not None:
            other.replaced.set()
            await other.gone.wait()
        self._links[link.name] = link
        log.info("bridge %s is connected, account %s", link.name, link.self_id)
        self.tell(wire.BridgeConnectedFrame(bridge=link.name, self_id=link.self_id, connected=True))

    def leave(self, link: Link) -> None:
        link.gone.set()
        if self._links.get(link.name) is link:
            del self._links[link.name]
            log.info("bridge %s is gone", link.name)
            self.tell(wire.BridgeConnectedFrame(bridge=link.name, self_id=link.self_id, connected=False))

    def _over(self, delivery: Delivery, status: Outcome) -> None:
        self.tell(
            wire.BridgeDeliveryFrame(
                bridge=delivery.bridge,
                delivery_id=delivery.id,
                conversation=delivery.conversation,
                status=status,
                reason=delivery.reason or None,
            )
        )

    def _wake(self) -> None:
        self._changed.set()
        for link in self._links.values():
            link.more.set()

    def _whisper(self, name: str, frame: wire.TurnFrame) -> None:
        """To a bridge that does not read, nothing is said that it can do without."""
        link = self._links.get(name)
        if link is not None and link.is_welcome:
            with contextlib.suppress(asyncio.QueueFull):
                link.frames.put_nowait(frame)
