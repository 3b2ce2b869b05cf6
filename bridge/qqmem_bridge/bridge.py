"""The parts put together, and the loop that reads QQ's events. It never waits for a call, the service or the disk."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Any

from qqmem_bridge.actions import react
from qqmem_bridge.clock import Clock
from qqmem_bridge.counters import Counters
from qqmem_bridge.errors import CallError
from qqmem_bridge.health import Health
from qqmem_bridge.inbound import Inbound
from qqmem_bridge.messages import identifier
from qqmem_bridge.pace import Pace
from qqmem_bridge.pictures import Pictures, own_servers
from qqmem_bridge.rounds import Rounds
from qqmem_bridge.sender import Sender
from qqmem_bridge.service import Service
from qqmem_bridge.settings import Settings
from qqmem_bridge.store import Store
from qqmem_bridge.transport import Event, Transport
from qqmem_bridge.wire import Delivery, Turn

log = logging.getLogger(__name__)

_TYPING_EVERY = 5.0
_MOST_TYPING = 300.0
"""Seconds after which a turn that never ended is not shown any more."""
_TIDY_EVERY = 3600.0


class Bridge:
    """Runs until cancelled, or until one end does not let it in."""

    def __init__(self, settings: Settings, transport: Transport, clock: Clock, chance: random.Random) -> None:
        self.counters = Counters()
        self.store = Store(settings.data / "bridge.db", clock.time())
        self._settings = settings
        self._transport = transport
        self._clock = clock
        token = settings.token.get_secret_value() if settings.token else ""
        self.service = Service(
            settings.service, token, settings.name, self.store, clock, self.counters, self._self_id, chance=chance
        )
        doors = settings.doors()
        self.rounds = Rounds(settings.rounds)
        self.pictures = Pictures(transport, self.counters, own_servers(settings.napcat.files))
        self.sender = Sender(
            transport, self.store, Pace(settings.pace.rates(), chance), clock, self.counters, self.service.report,
            open_to=doors.open_to, me=lambda: (self._me, settings.names[0] if settings.names else "qqmem"),
            rounds=self.rounds, longest=settings.pieces.longest, most=settings.pieces.most, fold=settings.pieces.fold,
        )  # fmt: skip
        self.inbound = Inbound(
            transport, self.store, self.sender, clock, self.counters, self.service.wake,
            doors=doors, names=settings.called(), rush=settings.merge.rush(),
            pictures=self.pictures, rounds=self.rounds,
        )  # fmt: skip
        self._me = ""
        self._known = asyncio.Event()
        self._typing: dict[str, asyncio.Task[None]] = {}
        self._last_event: float | None = None

    async def run(self) -> None:
        """Raises Refused if NapCat or the service does not let us in, SettingsError if a port is taken."""
        await self.store.open()
        health = Health(self._settings.health.host, self._settings.health.port, self.state)
        try:
            if me := await self.store.get("self_id"):
                self._me = me
                self._known.set()
            await self.sender.start()
            await self.inbound.start()
            await health.start()
            jobs = (self._transport.run(), self._read(), self.service.run(self), self._tidy())
            await _until_one_ends([asyncio.create_task(job) for job in jobs])
        finally:
            await health.close()
            for task in self._typing.values():
                task.cancel()
            await asyncio.gather(*self._typing.values(), return_exceptions=True)
            await self.inbound.close()
            await self.sender.close()
            await self.pictures.close()
            await self.service.close()
            await self.store.close()

    async def _read(self) -> None:
        async for event in self._transport.events():
            self._last_event = self._clock.now()
            try:
                await self._take(event)
            except Exception:  # one odd event must not make the bot deaf
                log.exception("napcat: an event could not be taken (%s)", event.get("post_type"))

    async def _take(self, event: Event) -> None:
        match event.get("post_type"):
            case "message":
                self.inbound.message(event)
            case "meta_event":
                await self._meta(event)
            case "notice" if event.get("notice_type") == "bot_offline":
                self._online(False)
            case "notice":
                self.inbound.notice(event)

    async def _meta(self, event: Event) -> None:
        if event.get("meta_event_type") == "connected":
            log.info("napcat: connected")
            self._online(True)
            if (me := identifier(event.get("self_id"))) and me != self._me:
                self._me = me
                await self.store.put("self_id", me)
                self._known.set()
            since = event.get("time")
            await self.inbound.catch_up(float(since) if isinstance(since, int | float) else self._clock.time())
        elif event.get("meta_event_type") == "heartbeat":
            status = event.get("status")
            self._online(not isinstance(status, Mapping) or status.get("online") is not False)

    def _online(self, online: bool) -> None:
        if online != self.sender.online:
            log.log(
                logging.INFO if online else logging.ERROR, "the QQ account is %s", "online" if online else "OFFLINE"
            )
        self.sender.online = online

    async def _self_id(self) -> str:
        await self._known.wait()
        return self._me

    async def _tidy(self) -> None:
        while True:
            await self.store.forget_old(self._clock.time())
            await self._clock.sleep(_TIDY_EVERY)

    # ---- what the service says

    async def accept(self, delivery: Delivery) -> None:
        self._still(delivery.conversation)
        await self.sender.accept(delivery)

    async def turn(self, turn: Turn) -> None:
        """Show that the bot is writing; say sorry if nothing came of it."""
        self._still(turn.conversation)
        if turn.state == "started" and turn.conversation.startswith("private:"):
            self._typing[turn.conversation] = asyncio.create_task(self._show_typing(turn.conversation))
        elif turn.state == "started" and self._settings.reaction and turn.message_ids:
            showing = self._show_reaction(turn.conversation, turn.message_ids[-1])
            self._typing[turn.conversation] = asyncio.create_task(showing)
        elif turn.state == "ended" and turn.outcome == "failed":
            await self.inbound.failed(turn.conversation, turn.message_ids)

    async def status(self) -> dict[str, Any]:
        inbox, outbox = await self.store.depth()
        return {
            "napcat": self._transport.connected,
            "online": self.sender.online,
            "queued": inbox + outbox,
            "counters": self.counters.all(),
        }

    def _still(self, chat: str) -> None:
        if task := self._typing.pop(chat, None):
            task.cancel()

    async def _show_typing(self, chat: str) -> None:
        end = self._clock.now() + _MOST_TYPING
        while self._clock.now() < end:
            try:
                params = {"user_id": chat.partition(":")[2], "event_type": 1}
                await self._transport.call("set_input_status", params)
            except CallError:
                return
            await self._clock.sleep(_TYPING_EVERY)

    async def _show_reaction(self, chat: str, message: str) -> None:
        """An emoji under what is being answered, until it is."""
        emoji = str(self._settings.reaction)
        showing = asyncio.create_task(react(self._transport, chat, message, emoji))
        try:
            await asyncio.shield(showing)
            await self._clock.sleep(_MOST_TYPING)
        finally:
            await showing  # or it would come after it is taken away, and stay
            await react(self._transport, chat, message, emoji, on=False)

    async def state(self) -> dict[str, Any]:
        """What /healthz shows."""
        inbox, outbox = await self.store.depth()
        quiet = None if self._last_event is None else round(self._clock.now() - self._last_event, 1)
        return {
            "ok": self._transport.connected and self.service.connected and self.sender.online,
            "napcat": self._transport.connected,
            "online": self.sender.online,
            "service": self.service.connected,
            "last_event_seconds": quiet,
            "inbox": inbox,
            "outbox": outbox,
            "reconnects": {"napcat": self._transport.reconnects, "service": self.service.reconnects},
            "counters": self.counters.all(),
        }


async def _until_one_ends(tasks: list[asyncio.Task[None]]) -> None:
    """And raise what it raised; the others are cancelled."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
