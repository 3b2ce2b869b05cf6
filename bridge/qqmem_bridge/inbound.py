"""Messages and notices on their way to the service."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial

from qqmem_bridge.addressing import Doors, Names, addressed
from qqmem_bridge.clock import Clock
from qqmem_bridge.counters import Counters, hidden
from qqmem_bridge.errors import CallError
from qqmem_bridge.forwards import folded, unfolded
from qqmem_bridge.hold import Hold, Rush
from qqmem_bridge.lanes import Lanes
from qqmem_bridge.messages import FORWARDED, Incoming, clean_name, identifier, iso, parse, readable
from qqmem_bridge.people import People
from qqmem_bridge.pictures import Pictures
from qqmem_bridge.rounds import Rounds
from qqmem_bridge.sender import Sender
from qqmem_bridge.store import Frame, Store
from qqmem_bridge.transport import Event, Transport

log = logging.getLogger(__name__)

_MOST_MET = 5000
"""Messages with pictures that are kept in mind, so that none is fetched twice."""
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
        pictures: Pictures,
        rounds: Rounds,
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
        self._pictures = pictures
        self._rounds = rounds
        self._fetching: dict[tuple[str, str], asyncio.Task[list[bytes]]] = {}
        self._met: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lanes = Lanes()
        self._holds: dict[str, Hold[Frame]] = {}
        self._timers: dict[str, asyncio.Task[None]] = {}
        self._people = People(transport, store)
        self._sorry: dict[str, float] = {}

    async def start(self) -> None:
        """Hand on what was seen before the program was killed."""
        for event in await self._store.unfinished():
            if message := parse(event, self._clock.time()):
                self._fetch(message)
                self._lanes.put(message.chat, partial(self._take, message))

    async def close(self) -> None:
        tasks = [*self._timers.values(), *self._fetching.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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
            began = self._fetch(message)
            self._lanes.put(message.chat, lambda: self._arrived(message, event, began))

    async def _arrived(self, message: Incoming, event: Event, began: bool) -> None:
        """began: its pictures are being fetched, and not for one that came before under this number."""
        if await self._store.see(message, event, self._clock.time()):
            await self._take(message)
        else:
            self._counters.add("duplicates")
            if began:
                self._forget(message.chat, message.message_id)

    def _fetch(self, message: Incoming) -> bool:
        """Begin to fetch the pictures of a message, at once: their addresses are good for a short while only."""
        key = (message.chat, message.message_id)
        if key in self._met or not any(segment["type"] == "image" for segment in message.segments):
            return False
        self._met[key] = None
        if len(self._met) > _MOST_MET:
            self._met.popitem(last=False)
        self._fetching[key] = asyncio.create_task(self._pictures.of(message))
        return True

    def _forget(self, chat: str, message_id: str) -> None:
        """Nobody is to see the pictures of a message."""
        if fetching := self._fetching.pop((chat, message_id), None):
            fetching.cancel()

    async def _take(self, message: Incoming) -> None:
        """Decide who is addressed, and hand on at once or with what follows."""
        chat = message.chat
        self._people.met(message)
        ours = message.quoted is not None and await self._people.quotes_bot(message)
        said_to_bot = addressed(message, self._names, quotes_bot=ours)
        if said_to_bot and message.in_group and await self._people.is_robot(message):
            said_to_bot = False
        frame = self._frame(message, said_to_bot)
        if inside := await self._inside(message):
            frame["text"] = frame["text"].replace(FORWARDED, inside, 1)
        if message.in_group and self._rounds.is_too_much(chat, message.user_id, self._clock.now()):
            self._counters.add("rounds_capped")
            frame |= {"addressed": False, "context_only": True}
            self._forget(chat, message.message_id)
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
            self._forget(chat, after["message_id"])
            await self._store.drop_message(chat, after["message_id"])

    async def _hand_on(self, chat: str, frames: list[Frame]) -> None:
        if not frames:
            return
        pictures = {frame["message_id"]: await self._fetched(chat, frame) for frame in frames if _may_show(frame)}
        dropped = await self._store.hand_on(chat, frames, self._clock.time(), pictures)
        self._wake()
        if dropped:
            log.error("%s: %d messages dropped, the service is away for too long", hidden(chat), dropped)
            if chat.startswith("private:"):
                await self._apologise(chat, _LATER)

    async def _fetched(self, chat: str, frame: Frame) -> list[bytes]:
        """The pictures of a message that is handed on."""
        task = self._fetching.pop((chat, frame["message_id"]), None)
        if task is None:
            return []
        await asyncio.wait([task])
        if task.cancelled() or (error := task.exception()):
            log.error("%s: pictures could not be fetched", hidden(chat), exc_info=None if task.cancelled() else error)
            return []
        if found := task.result():
            frame["pictures"] = len(found)
        return found

    async def _inside(self, message: Incoming) -> str:
        """The forwarded chat that a message holds, as text; empty if there is none, or it cannot be had."""
        answer: object = None
        if number := folded(message):
            try:
                answer = await self._transport.call("get_forward_msg", {"message_id": number})
            except CallError:
                return ""
        return unfolded(message, answer)

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
        names = {user: self._people.name(message.chat, user) for user in message.ats}
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

    # ---- notices

    def notice(self, event: Event) -> None:
        """Something other than a message happened."""
        user, group = identifier(event.get("user_id")), identifier(event.get("group_id"))
        chat = f"group:{group}" if group else f"private:{user}"
        me = identifier(event.get("self_id"))
        if not self._doors.open_to(chat):
            return
        heard = user not in ("", me) and user not in self._doors.denied
        match event.get("notice_type"), event.get("sub_type"):
            case "group_recall" | "friend_recall", _:
                message_id = identifier(event.get("message_id"), negative=True)
                self._lanes.put(chat, lambda: self._withdrawn(chat, message_id))
            case "notify", "poke" if identifier(event.get("target_id")) == me and heard:
                self._lanes.put(chat, lambda: self._poked(chat, user))
            case "group_msg_emoji_like", _ if group and heard and event.get("is_add") is not False:
                self._lanes.put(chat, lambda: self._liked(chat, user, event))
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
        self._forget(chat, message_id)
        self._counters.add("withdrawn")
        held = self._holds[chat].take() if chat in self._holds else []
        kept = [frame for frame in held if frame["message_id"] != message_id]
        told: list[Frame] = [{"type": "withdraw", "conversation": chat, "message_id": message_id}]
        await self._hand_on(chat, kept if len(kept) < len(held) else [*held, *told])

    async def _poked(self, chat: str, user: str) -> None:
        name = {"name": name} if (name := self._people.name(chat, user)) else {}
        self._tell(chat, "poke", user_id=user, time=iso(self._clock.time()), **name)

    async def _liked(self, chat: str, user: str, event: Event) -> None:
        """Somebody has put an emoji under a message; if it is one of the bot's, it is told."""
        message_id = identifier(event.get("message_id"), negative=True)
        likes = event.get("likes")
        first = likes[0] if isinstance(likes, list) and likes else None
        emoji = identifier(first.get("emoji_id")) if isinstance(first, Mapping) else ""
        if not (emoji and await self._store.is_ours(chat, message_id)):
            return
        name = {"name": name} if (name := self._people.name(chat, user)) else {}
        about = {"user_id": user, "message_id": message_id, "emoji_id": emoji}
        self._tell(chat, "reaction", time=iso(self._clock.time()), **about, **name)

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


def _may_show(frame: Frame) -> bool:
    return frame["type"] == "message" and not frame.get("context_only")
