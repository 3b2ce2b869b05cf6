"""The service's side: `WS /ws/bridge`, kept up; frames go out of the inbox and stay there until they are acked."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from pydantic import ValidationError
from websockets.exceptions import ConnectionClosed

from qqmem_bridge.clock import Clock
from qqmem_bridge.counters import Counters
from qqmem_bridge.errors import Refused
from qqmem_bridge.line import Line, Nonsense
from qqmem_bridge.store import Frame, Store, Stored
from qqmem_bridge.upload import Uploader
from qqmem_bridge.wire import FRAME, PROTOCOL, Ack, Delivery, Error, Turn, Welcome

log = logging.getLogger(__name__)

STALE = 600.0
"""Seconds after which a message is not answered any more, only remembered."""
_STATUS_EVERY = 10.0
_PATIENCE = 30.0
"""Seconds without any frame of the service after which the connection counts as dead; it answers a ping."""
_MOST_BYTES = 4 * 2**20


class Listener(Protocol):
    """Who takes what the service says."""

    async def accept(self, delivery: Delivery) -> None: ...

    async def turn(self, turn: Turn) -> None: ...

    async def status(self) -> dict[str, Any]:
        """The fields of a `status` frame."""
        ...


class Service:
    """A supervised connection."""

    def __init__(
        self,
        url: str,
        token: str,
        name: str,
        store: Store,
        clock: Clock,
        counters: Counters,
        self_id: Callable[[], Awaitable[str]],
        *,
        chance: random.Random | None = None,
    ) -> None:
        self._name = name
        self._store = store
        self._clock = clock
        self._counters = counters
        self._self_id = self_id
        self._more = asyncio.Event()
        self._reports: list[Frame] = []
        self._last = 0
        self._uploads = Uploader(url, token, clock, counters)
        self._line = Line(
            "service", url, token, clock, chance,
            patience=_PATIENCE,
            probe=json.dumps({"type": "ping"}),
            most_bytes=_MOST_BYTES,
            no_token="The service does not accept the token; "
            "QQMEM_BRIDGE_TOKEN must be one of its tokens with the scope bridge.",
            no_address="service is not an address such as ws://127.0.0.1:9999/ws/bridge",
        )  # fmt: skip

    @property
    def connected(self) -> bool:
        return self._line.connected

    @property
    def reconnects(self) -> int:
        return self._line.reconnects

    def wake(self) -> None:
        """There is something new in the inbox."""
        self._more.set()

    def report(self, reply: Stored) -> None:
        """Tell what became of a reply. Without a connection it is told when the service sends the reply again."""
        ids = [part.message_id for part in reply.parts if part.message_id]
        self._outcome(reply.delivery.delivery_id, reply.state, ids, reply.reason)

    def _outcome(self, number: int, status: str, ids: list[str], reason: str) -> None:
        if self.connected:
            more = {"reason": reason} if reason else {}
            self._reports.append({"delivery_id": number, "status": status, "message_ids": ids, **more})
            self._more.set()

    async def close(self) -> None:
        await self._uploads.close()

    async def run(self, listener: Listener) -> None:
        """Keep the connection up until cancelled. Raises Refused if the service does not let us in."""
        await self._self_id()  # nothing to say hello with before NapCat was there once
        await self._line.keep_up(partial(self._talk, listener), self._reports.clear)

    async def _talk(self, listener: Listener) -> None:
        self._last = int(await self._store.get("last_reported") or 0)
        self_id = await self._self_id()
        try:
            await self._send(type="hello", protocol=PROTOCOL, bridge=self._name, self_id=self_id, last_acked=self._last)
            welcome = _parsed(await self._line.recv())
            if not isinstance(welcome, Welcome):
                raise Nonsense
            if welcome.protocol != PROTOCOL:
                raise Refused(
                    f"The service speaks protocol {welcome.protocol}, this bridge {PROTOCOL}; update the older of them."
                )
            if await self._store.resume(welcome.resume_from):
                log.warning("service: it knows more than bridge.db, which is new or an old copy; going on above that")
            self._line.up()
            log.info("service: connected")
            await _first(self._listen(listener), self._hand_on(), self._tell(listener))
        except ConnectionClosed as error:
            self._see_why(error)
            raise

    def _see_why(self, error: ConnectionClosed) -> None:
        """Raise Refused if there is no use in coming back."""
        code = error.rcvd.code if error.rcvd else 0
        if code == 4409:
            raise Refused(
                f"Another bridge named {self._name} has connected; give each its own name (bridge.yaml: name), "
                "or stop the other."
            ) from error
        if code in (1008, 4401, 4403):
            raise self._line.refused() from error

    async def _listen(self, listener: Listener) -> None:
        while True:
            raw = await self._line.recv()
            match frame := _parsed(raw):
                case Ack(seq=seq):
                    await self._store.acked(seq)
                case Delivery():
                    await listener.accept(frame)
                case Turn():
                    await listener.turn(frame)
                case Error(code=code):
                    self._counters.add("service_errors")
                    log.warning("service: it did not take a frame (%s)", code)
                case None:
                    self._counters.add("malformed")
                    if (number := _delivery_id(raw)) is not None:
                        self._outcome(number, "failed", [], "malformed")

    async def _hand_on(self) -> None:
        """Send what is in the inbox, in order, each frame once on this connection; and the reports."""
        sent = 0
        while True:
            self._more.clear()
            while self._reports:
                outcome = self._reports.pop(0)
                await self._send(type="delivered", **outcome)
                self._last = max(self._last, outcome["delivery_id"])
                await self._store.put("last_reported", str(self._last))
            frames = await self._store.frames(sent)
            for seq, at, frame in frames:
                if frame["type"] == "message" and self._clock.time() - at > STALE:
                    frame["context_only"] = True
                if frame.pop("pictures", 0):
                    frame["images"] = await self._uploads.pictures(await self._store.pictures(seq))
                await self._send(seq=seq, **frame)
                sent = seq
                self._counters.add("handed_on")
            if not frames and not self._reports:
                await self._more.wait()

    async def _tell(self, listener: Listener) -> None:
        while True:
            await self._send(type="status", **await listener.status())
            await self._clock.sleep(_STATUS_EVERY)

    async def _send(self, **frame: object) -> None:
        await self._line.send(json.dumps(frame))


async def _first(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, and end as it did."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _parsed(raw: str | bytes) -> object:
    """A frame of the service; None if it is none."""
    try:
        return FRAME.validate_json(raw)
    except (ValidationError, RecursionError, UnicodeError):
        log.warning("service: a frame that cannot be read")
        return None


def _delivery_id(raw: str | bytes) -> int | None:
    """Of a delivery that cannot be read."""
    try:
        frame = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    found = frame.get("delivery_id") if isinstance(frame, dict) and frame.get("type") == "delivery" else None
    return found if isinstance(found, int) else None
