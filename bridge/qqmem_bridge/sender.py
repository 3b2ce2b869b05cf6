"""Replies on their way to QQ: in order for each chat, at a pace, each message once or not at all.

A message whose outcome is unknown is looked up in the chat's history and never sent again: twice is worse than not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from qqmem_bridge.actions import act
from qqmem_bridge.clock import Clock
from qqmem_bridge.counters import Counters, hidden
from qqmem_bridge.errors import CallError, CallFailed, CallLost, NotConnected
from qqmem_bridge.forwards import nodes
from qqmem_bridge.lanes import Lanes
from qqmem_bridge.lookup import find
from qqmem_bridge.pace import Pace
from qqmem_bridge.pieces import pieces
from qqmem_bridge.rounds import Rounds
from qqmem_bridge.store import Part, State, Store, Stored
from qqmem_bridge.transport import Segment, Transport
from qqmem_bridge.wire import Delivery

log = logging.getLogger(__name__)

TOO_OLD = 600.0
"""Seconds after which a reply is not sent any more."""
_QUOTE_AFTER = 8.0
"""Seconds after which a reply in a group says what it answers."""
_MUTED = 600.0
"""Seconds of rest for a group that is muted for nobody knows how long."""
_FOREVER = 10 * 365 * 86400.0
_DOUBTFUL = 3
"""Unknown outcomes in a row after which a chat rests."""
_REST = 1800.0
_LOOKS = (0.0, 3.0)
"""Seconds before each look into the history."""

Report = Callable[[Stored], None]


class Sender:
    """The outbox at work.

    report: told of each finished reply of the service. me: the bot's number and name. rounds: told when it talks.
    longest, most: of the messages of a reply. fold: the rest goes as a forwarded chat, which is one message, instead of
    being cut.
    """

    def __init__(
        self,
        transport: Transport,
        store: Store,
        pace: Pace,
        clock: Clock,
        counters: Counters,
        report: Report,
        *,
        open_to: Callable[[str], bool],
        me: Callable[[], tuple[str, str]],
        rounds: Rounds,
        longest: int = 1200,
        most: int = 4,
        fold: bool = True,
    ) -> None:
        self._transport = transport
        self._store = store
        self._pace = pace
        self._clock = clock
        self._counters = counters
        self._report = report
        self._open_to = open_to
        self._longest = longest
        self._most = most
        self._fold = fold
        self._me = me
        self._rounds = rounds
        self._lanes = Lanes()
        self._account = asyncio.Lock()
        self._doubts: dict[str, int] = {}
        self._stopped: dict[str, int] = {}
        self._newest = 0
        self._born = 0.0
        self.online = True
        """Whether QQ lets the account send."""

    async def start(self) -> None:
        """Go on with what was left."""
        self._born = float(await self._store.get("born") or 0)
        for reply in await self._store.unsent():
            self._put(reply)

    async def close(self) -> None:
        await self._lanes.close()

    async def accept(self, delivery: Delivery) -> None:
        """Store a reply of the service and send it; one that is known is not sent again, its outcome is."""
        texts, rest = pieces(delivery.parts, self._longest, self._most)
        key = delivery.model_copy(update={"created": _moment(delivery.created)})
        reply, new = await self._store.accept(key, texts, self._clock.time(), rest if self._fold else ())
        if new:
            self._counters.add("deliveries")
            self._put(reply)
        elif reply.over:
            self._report(reply)

    async def say(self, chat: str, text: str) -> None:
        """Send a sentence of the bridge's own."""
        last = int(await self._store.get("said") or 0) + 1
        await self._store.put("said", str(last))
        delivery = Delivery.model_construct(
            type="delivery", delivery_id=-last, conversation=chat, in_reply_to=(), parts=(text,), quote=None, at=None,
            actions=(), created="",
        )  # fmt: skip
        reply, _ = await self._store.accept(delivery, [text], self._clock.time())
        self._put(reply)

    def stop(self, chat: str) -> None:
        """Send nothing more of what waits for a chat now."""
        self._stopped[chat] = self._newest

    async def muted(self, chat: str, seconds: float, reason: str = "muted") -> None:
        """Send nothing to a chat for a while; 0 lifts it. seconds < 0: until it is lifted."""
        if seconds:
            now = self._clock.time()
            await self._store.pause(chat, now + (seconds if seconds > 0 else _FOREVER), reason)
            log.warning("%s: nothing is sent there (%s)", hidden(chat), reason)
        else:
            await self._store.lift(chat)

    def _put(self, reply: Stored) -> None:
        self._newest = max(self._newest, reply.id)
        self._lanes.put(reply.delivery.conversation, lambda: self._deliver(reply))

    async def _deliver(self, reply: Stored) -> None:
        chat, why = reply.delivery.conversation, ""
        for part in reply.parts:
            if part.state == "sent":
                continue
            if found := await self._sent_before(reply, part):
                await self._done(reply, part, found)
                continue
            why = (
                await self._settle(reply, part)
                if part.state in ("sending", "unknown")
                else await self._send(reply, part)
            )
            if why:
                break
        if not why:
            await act(self._transport, chat, reply.delivery.actions)
        state: State = "sent" if not why else "unknown" if why.startswith("unknown") else "failed"
        done = await self._store.finish(reply.id, state, why)
        self._counters.add(state)
        if state == "sent" and reply.delivery.in_reply_to:
            answered = await self._store.seen(chat, reply.delivery.in_reply_to[-1])
            took = self._clock.time() - answered.at if answered else 0.0
            self._counters.add("reply_milliseconds", max(0, round(took * 1000)))
        log.info("%s: reply %d %s %s", hidden(chat), reply.delivery.delivery_id, state, why)
        if reply.delivery.delivery_id > 0:
            self._report(done)

    # ---- one message

    async def _send(self, reply: Stored, part: Part) -> str:
        """Why it was not sent; empty if it was."""
        chat = reply.delivery.conversation
        while True:
            if why := await self._refusal(reply):
                return why
            if not (self._transport.connected and self.online):
                await self._clock.sleep(1)
                continue
            await self._clock.sleep(self._pace.chat_delay(chat, self._clock.now()))
            try:
                request = await self._request(reply, part)
                async with self._account:
                    await self._clock.sleep(self._pace.account_delay(self._clock.now()))
                    if await self._refusal(reply) or not (self._transport.connected and self.online):
                        continue
                    self._pace.sent(chat, self._clock.now())
                    await self._store.mark(reply.id, part.n, "sending", self._clock.time())
                answer = await self._transport.call(*request)
            except NotConnected:
                await self._store.mark(reply.id, part.n, "queued", self._clock.time())
                await self._clock.sleep(1)
            except CallLost:
                return await self._settle(reply, part)
            except CallFailed as error:
                if not part.folded or error.ambiguous or error.result(120) or error.result(110):
                    return await self._failed(reply, part, error)
                part = replace(part, folded=())  # accounts that are watched may not forward: its beginning, then
            else:
                return await self._done(reply, part, str(answer["message_id"]) if isinstance(answer, Mapping) else "")

    async def _sent_before(self, reply: Stored, part: Part) -> str | None:
        """The id of a message that an earlier file has sent: this one is younger than the reply, and cannot know."""
        created = reply.delivery.created
        if part.state != "queued" or not created.isdigit() or float(created) >= self._born:
            return None
        await self._wait_connected(reply)
        return await find(self._transport, self._store, reply.delivery.conversation, part, float(created))

    async def _wait_connected(self, reply: Stored) -> None:
        """No longer than the reply may be sent."""
        while not self._transport.connected and self._clock.time() - reply.at <= TOO_OLD:
            await self._clock.sleep(1)

    async def _refusal(self, reply: Stored) -> str:
        """Why a reply is not to be sent any more; empty if it is."""
        delivery, now = reply.delivery, self._clock.time()
        chat = delivery.conversation
        if not self._open_to(chat):
            return "the chat is not on the list"
        if now - reply.at > TOO_OLD:
            return "too old"
        if reply.id <= self._stopped.get(chat, 0):
            return "stopped"
        if why := await self._store.paused(chat, now):
            return why
        known = [await self._store.seen(chat, message_id) for message_id in delivery.in_reply_to]
        return "withdrawn" if known and all(one is not None and one.withdrawn for one in known) else ""

    async def _failed(self, reply: Stored, part: Part, error: CallFailed) -> str:
        if error.ambiguous:
            return await self._settle(reply, part)
        chat = reply.delivery.conversation
        await self._store.mark(reply.id, part.n, "failed", self._clock.time())
        if error.result(120):
            await self.muted(chat, _MUTED)
            return "muted"
        if error.result(110):
            await self.muted(chat, -1, "removed from the group")
            return "removed from the group"
        log.warning("%s: not sent (retcode %d)", hidden(chat), error.retcode)
        return f"refused ({error.retcode})"

    async def _done(self, reply: Stored, part: Part, message_id: str) -> str:
        await self._store.mark(reply.id, part.n, "sent", self._clock.time(), message_id)
        self._doubts.pop(reply.delivery.conversation, None)
        self._rounds.replied(reply.delivery.conversation, self._clock.now())
        return ""

    async def _settle(self, reply: Stored, part: Part) -> str:
        """Look for a message that may have been sent. Empty if it is there."""
        chat = reply.delivery.conversation
        given = reply.at if not part.at else part.at
        for delay in _LOOKS:
            await self._clock.sleep(delay)
            await self._wait_connected(reply)
            self._counters.add("looked_up")
            if found := await find(self._transport, self._store, chat, part, given):
                return await self._done(reply, part, found)
        await self._store.mark(reply.id, part.n, "unknown", self._clock.time())
        self._doubts[chat] = self._doubts.get(chat, 0) + 1
        if self._doubts[chat] >= _DOUBTFUL:
            del self._doubts[chat]
            await self.muted(chat, _REST, "too many unknown outcomes")
        log.warning("%s: nobody knows whether a message was sent; it is not sent again", hidden(chat))
        return "unknown: it may have been sent"

    # ---- what a message is made of

    async def _request(self, reply: Stored, part: Part) -> tuple[str, dict[str, Any]]:
        """The call that sends a message."""
        kind, _, number = reply.delivery.conversation.partition(":")
        whom = {"group_id": number} if kind == "group" else {"user_id": number}
        if part.folded:
            return f"send_{kind}_forward_msg", {**whom, "messages": nodes(part.folded, *self._me())}
        return f"send_{kind}_msg", {**whom, "message": await self._segments(reply, part)}

    async def _segments(self, reply: Stored, part: Part) -> list[Segment]:
        """Text stays text, whatever it looks like; only the bridge quotes and only it @s, never everybody."""
        text: Segment = {"type": "text", "data": {"text": part.text}}
        delivery = reply.delivery
        if part.n > 0 or not delivery.conversation.startswith("group:"):
            return [text]
        quote, at = await self._quote(delivery)
        front: list[Segment] = [{"type": "reply", "data": {"id": quote}}] if quote else []
        if at:
            front.append({"type": "at", "data": {"qq": at}})
            text = {"type": "text", "data": {"text": f" {part.text}"}}
        return [*front, text]

    async def _quote(self, delivery: Delivery) -> tuple[str | None, str | None]:
        """What to quote and whom to @ in a group.

        Quoted is what the service asks for, or what is answered if others have talked since or it was long ago.
        Who wrote what QQ's side no longer knows is @-ed instead.
        """
        chat = delivery.conversation
        target = delivery.quote or (delivery.in_reply_to[-1] if delivery.in_reply_to else None)
        if target is None:
            return None, delivery.at
        seen = await self._store.seen(chat, target)
        late = seen is not None and (seen.others > 0 or self._clock.time() - seen.at > _QUOTE_AFTER)
        if not (delivery.quote or late):
            return None, delivery.at
        try:
            await self._transport.call("get_msg", {"message_id": target})
        except CallFailed:
            return None, delivery.at or (seen.user_id if seen else None)
        except CallError:
            return None, delivery.at
        return target, delivery.at


def _moment(created: str) -> str:
    """One spelling of a time, so that a reply that comes again is known again."""
    try:
        return str(int(datetime.fromisoformat(created).timestamp()))
    except (ValueError, OverflowError):
        return ""
