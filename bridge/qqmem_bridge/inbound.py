"""Messages and notices on their way to the service."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from qqmem_bridge.addressing import Doors, Names, addressed
from qqmem_bridge.clock import Clock
from qqmem_bridge.counters import Counters, hidden
from qqmem_bridge.errors import CallError, CallFailed
from qqmem_bridge.hold import Hold, Rush
from qqmem_bridge.lanes import Lanes
from qqmem_bridge.messages import Incoming, clean_name, identifier, iso, parse, readable
from qqmem_bridge.sender import Sender
from qqmem_bridge.store import Frame, Store
from qqmem_bridge.transport import Event, Transport

T = TypeVar("T")

log = logging.getLogger(__name__)

_MOST_NAMES = 5000
"""Display names and robots that are kept in mind."""
_GAP = 30
"""Messages of a group that are asked for after the connection was away."""
_SORRY_EVERY = 600.0
_LATER = "我现在有点忙不过来，稍后再试试吧。"
_SORRY = "抱歉，刚才出了点问题，稍后再试试吧。"


class Inbound:
    """Takes events without waiting; a lane for each chat does the rest, in order.

    wake: called when there is something new for the service.
    """

    def __init__(
        self,
        transport: Transport,
        store: Store,
        sender: Sender,
        clock: Clock,
        counters: Counters,
        wake: Callable[[], None],
        *,
        doors: Doors,
        names: Names,
        rush: Rush,
    ) -> None:
        self._transport = transport
        self._store = store
        self._sender = sender
        self._clock = clock
        self._counters = counters
        self._wake = wake
        self._doors = doors
        self._names = names
        self._rush = rush
        self._lanes = Lanes()
        self._holds: dict[str, Hold[Frame]] = {}
        self._timers: dict[str, asyncio.Task[None]] = {}
        self._called: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._robots: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._sorry: dict[str, float] = {}

    async def start(self) -> None:
        """Hand on what was seen before the program was killed."""
        for event in await self._store.unfinished():
            if message := parse(event, self._clock.time()):
                self._lanes.put(message.chat, partial(self._take, message))

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        await asyncio.gather(*self._timers.values(), return_exceptions=True)
        await self._lanes.close()

    # ---- messages

    def message(self, event: Event) -> None:
        """Somebody wrote something."""
        message = parse(event, self._clock.time())
        if message is None:
            self._counters.add("malformed")
        elif not self._doors.let_in(message):
            self._counters.add("ignored")
        else:
            self._counters.add("received")
            self._lanes.put(message.chat, lambda: self._arrived(message, event))

    async def _arrived(self, message: Incoming, event: Event) -> None:
        if await self._store.see(message, event, self._clock.time()):
            await self._take(message)
        else:
            self._counters.add("duplicates")

    async def _take(self, message: Incoming) -> None:
        """Decide who is addressed, and hand on at once or with what follows."""
        chat = message.chat
        self._keep(self._called, (chat, message.user_id), message.card or message.name)
        ours = message.quoted is not None and await self._is_ours(message)
        said_to_bot = addressed(message, self._names, quotes_bot=ours)
        if said_to_bot and message.in_group and await self._is_robot(message):
            said_to_bot = False
        frame = self._frame(message, said_to_bot)
        if message.bare == "/stop" and (said_to_bot or message.user_id in self._doors.admins):
            self._sender.stop(chat)
            await self._release(chat, [{"type": "cancel", "conversation": chat}], after=frame)
        elif message.bare.startswith("/"):
            await self._release(chat, [frame])
        else:
            hold = self._holds.setdefault(chat, Hold(self._rush))
            now = self._clock.now()
            await self._hand_on(chat, hold.add(frame, message.user_id, now, begins=said_to_bot))
            self._time(chat)

    async def _release(self, chat: str, frames: list[Frame], after: Frame | None = None) -> None:
        """Hand on what is held, and these. after: a message that is done with by them."""
        held = self._holds[chat].take() if chat in self._holds else []
        await self._hand_on(chat, [*held, *frames])
        if after is not None:
            await self._store.drop_message(chat, after["message_id"])

    async def _hand_on(self, chat: str, frames: list[Frame]) -> None:
        if not frames:
            return
        dropped = await self._store.hand_on(chat, frames, self._clock.time())
        self._wake()
        if dropped:
            log.error("%s: %d messages dropped, the service is away for too long", hidden(chat), dropped)
            if chat.startswith("private:"):
                await self._apologise(chat, _LATER)

    def _time(self, chat: str) -> None:
        """Hand on what is held when its time has come."""
        if chat not in self._timers and self._holds[chat].due is not None:
            self._timers[chat] = asyncio.create_task(self._wait(chat))

    async def _wait(self, chat: str) -> None:
        while (due := self._holds[chat].due) is not None and (left := due - self._clock.now()) > 0:
            await self._clock.sleep(left)
        del self._timers[chat]
        self._lanes.put(chat, lambda: self._release(chat, []))

    def _frame(self, message: Incoming, said_to_bot: bool) -> Frame:
        names = {user: self._called.get((message.chat, user), "") for user in message.ats}
        sender = {"id": message.user_id, "name": message.name or message.user_id}
        sender |= {"card": message.card} if message.card else {}
        sender |= {"role": message.role} if message.role else {}
        frame: Frame = {"type": "message", "conversation": message.chat, "message_id": message.message_id}
        frame |= {
            "sender": sender,
            "text": readable(message, names),
            "addressed": said_to_bot,
            "time": iso(message.time),
        }
        frame |= {"group_name": message.group_name} if message.group_name else {}
        return frame | ({"reply_to": quoted} if (quoted := identifier(message.quoted, negative=True)) else {})

    async def _is_ours(self, message: Incoming) -> bool:
        """Whether a message quotes the bot."""
        quoted = message.quoted or ""
        if await self._store.is_ours(message.chat, quoted):
            return True
        if not message.in_group or await self._store.seen(message.chat, quoted):
            return False
        try:
            found = await self._transport.call("get_msg", {"message_id": quoted})
        except CallError:
            return False
        return isinstance(found, Mapping) and identifier(found.get("user_id")) == message.self_id

    async def _is_robot(self, message: Incoming) -> bool:
        """Whether QQ says that a member is one of its official bots: those answer each other without end."""
        key = (message.chat, message.user_id)
        if key not in self._robots:
            group = message.chat.partition(":")[2]
            try:
                found = await self._transport.call(
                    "get_group_member_info", {"group_id": group, "user_id": message.user_id}
                )
            except CallFailed:
                found = None
            except CallError:
                return False
            self._keep(self._robots, key, isinstance(found, Mapping) and found.get("is_robot") is True)
        return self._robots[key]

    # ---- notices

    def notice(self, event: Event) -> None:
        """Something other than a message happened."""
        user, group = identifier(event.get("user_id")), identifier(event.get("group_id"))
        chat = f"group:{group}" if group else f"private:{user}"
        me = identifier(event.get("self_id"))
        if not self._doors.open_to(chat):
            return
        match event.get("notice_type"), event.get("sub_type"):
            case "group_recall" | "friend_recall", _:
                message_id = identifier(event.get("message_id"), negative=True)
                self._lanes.put(chat, lambda: self._withdrawn(chat, message_id))
            case "notify", "poke" if identifier(event.get("target_id")) == me and user not in ("", me):
                self._tell(chat, "poke", user_id=user)
            case "notify", "input_status" if chat in self._holds and event.get("event_type") == 1:
                self._holds[chat].typing(user, self._clock.now())
            case "group_ban", "lift_ban" if user in (me, ""):  # nobody's number: of the whole group
                self._lanes.put(chat, lambda: self._muted(chat, 0))
            case "group_ban", _ if user in (me, ""):
                seconds = event.get("duration")
                length = float(seconds) if isinstance(seconds, int | float) and seconds > 0 else -1.0
                self._lanes.put(chat, lambda: self._muted(chat, length))
            case "group_decrease", "kick_me" | "disband":
                self._lanes.put(chat, lambda: self._muted(chat, -1, "kicked"))
            case "group_increase", _ if user == me:
                self._lanes.put(chat, lambda: self._muted(chat, 0, "joined"))
            case kind:
                log.debug("notice %s ignored", clean_name(str(kind)))

    async def _withdrawn(self, chat: str, message_id: str) -> None:
        if await self._store.is_ours(chat, message_id) or not message_id:
            return
        await self._store.withdraw(chat, message_id)
        self._counters.add("withdrawn")
        held = self._holds[chat].take() if chat in self._holds else []
        kept = [frame for frame in held if frame["message_id"] != message_id]
        told: list[Frame] = [{"type": "withdraw", "conversation": chat, "message_id": message_id}]
        await self._hand_on(chat, kept if len(kept) < len(held) else [*held, *told])

    async def _muted(self, chat: str, seconds: float, kind: str = "") -> None:
        await self._sender.muted(chat, seconds, kind or "muted")
        until = {"until": iso(self._clock.time() + seconds)} if seconds > 0 else {}
        self._tell(chat, kind or ("muted" if seconds else "unmuted"), **until)

    def _tell(self, chat: str, kind: str, **more: str) -> None:
        frame = {"type": "notice", "conversation": chat, "kind": kind, **more}
        self._lanes.put(chat, lambda: self._hand_on(chat, [frame]))

    # ---- the rest

    async def catch_up(self, until: float) -> None:
        """What groups said while the connection was away, as context that is not answered.

        until: when it came back, by QQ's clock; what is newer arrives by itself.
        """
        for chat in sorted(await self._store.chats_seen()):
            if chat.startswith("group:") and self._doors.open_to(chat):
                self._lanes.put(chat, partial(self._missed, chat, until))

    async def _missed(self, chat: str, until: float) -> None:
        try:
            found = await self._transport.call(
                "get_group_msg_history", {"group_id": chat.partition(":")[2], "count": _GAP}
            )
        except CallError:
            return
        events = found.get("messages") if isinstance(found, Mapping) else None
        frames = []
        for event in events if isinstance(events, list) else []:
            message = parse(event, self._clock.time()) if isinstance(event, dict) else None
            if message is None or message.chat != chat or message.time >= until or not self._doors.let_in(message):
                continue
            if await self._store.see(message, None, self._clock.time()):
                frames.append(self._frame(message, False) | {"context_only": True})
        await self._hand_on(chat, frames)

    async def failed(self, chat: str, message_ids: tuple[str, ...]) -> None:
        """No reply could be written: say so in private, and in a group only to who addressed the bot."""
        seen = [await self._store.seen(chat, message_id) for message_id in message_ids]
        if any(one is not None and one.addressed and not one.withdrawn for one in seen):
            await self._apologise(chat, _SORRY)

    async def _apologise(self, chat: str, text: str) -> None:
        now = self._clock.now()
        if now - self._sorry.get(chat, -_SORRY_EVERY) >= _SORRY_EVERY:
            self._sorry[chat] = now
            self._counters.add("apologies")
            await self._sender.say(chat, text)

    @staticmethod
    def _keep(kept: OrderedDict[tuple[str, str], T], key: tuple[str, str], value: T) -> None:
        kept[key] = value
        kept.move_to_end(key)
        if len(kept) > _MOST_NAMES:
            kept.popitem(last=False)
