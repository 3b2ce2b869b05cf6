"""One connection to /ws/bridge: the frames of a bridge are obeyed one after another, replies go out beside them.

That frames are obeyed in turn is what makes the last one stored a place from which the bridge can go on.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from qqmem.api import convert, wire_bridge as wire
from qqmem.api.auth import Caller
from qqmem.api.bridges import Bridges, Link
from qqmem.api.problems import note, sentence
from qqmem.api.socket import BINARY, BUG, RESTART, send
from qqmem.api.state import Bridger, Limits, TheBridges, TheChats, TheCondition, TheLimits, TheSockets, TheUploads
from qqmem.api.wire import INTERNAL, to_json
from qqmem.chat import Chats
from qqmem.errors import Conflict, DatabaseError, EngineStopped, InvalidRequest, QqmemError
from qqmem.uploads import Uploads

log = logging.getLogger(__name__)

router = APIRouter()

LATER, NO_HELLO, REPLACED = 1013, 4400, 4409
_REASONS = {
    LATER: "The service cannot store anything now; connect again.",
    NO_HELLO: f"The first frame must be hello, with protocol {wire.PROTOCOL}.",
    REPLACED: "Another bridge of this name has connected.",
}


@router.websocket("/ws/bridge")
async def bridge_socket(
    socket: WebSocket,
    caller: Bridger,
    chats: TheChats,
    bridges: TheBridges,
    uploads: TheUploads,
    limits: TheLimits,
    condition: TheCondition,
    sockets: TheSockets,
) -> None:
    """Bring in what is said in QQ, and take replies there; docs/protocol.md has the frames."""
    task = asyncio.current_task()
    assert task is not None, "a route runs in a task"
    sockets.add(task)
    try:
        await BridgeSocket(socket, caller, chats, bridges, uploads, limits).serve(condition.stopping)
    finally:
        sockets.discard(task)


class BridgeSocket:
    """Speaks with one bridge until it leaves, stops reading, is replaced, or the service stops.

    Nothing is lost with it: what was not acknowledged is brought again, what was not delivered is sent again.
    """

    def __init__(
        self,
        socket: WebSocket,
        caller: Caller,
        chats: Chats,
        bridges: Bridges,
        uploads: Uploads,
        limits: Limits,
    ) -> None:
        self._socket = socket
        self._caller = caller
        self._chats = chats
        self._bridges = bridges
        self._deliveries = bridges.deliveries
        self._uploads = uploads
        self._limits = limits

    async def serve(self, stopping: asyncio.Event) -> None:
        """Run to the end. stopping: once set, the socket closes."""
        await self._socket.accept()
        try:
            code = await self._run(stopping)
        except WebSocketDisconnect:
            code = None
        except Exception:  # a bug, which the bridge learns by the close code
            log.exception("a bridge of %s has failed", self._caller.name)
            code = BUG
        if code is not None:
            await self._send({"type": "websocket.close", "code": code, "reason": _REASONS.get(code, "")})

    async def _run(self, stopping: asyncio.Event) -> int | None:
        """Returns the code to close with; None if there is nobody to tell."""
        link = await self._hello(stopping)
        if not isinstance(link, Link):
            return link
        try:
            await self._bridges.seat(link)
            last = await self._deliveries.greet(link.name)
            await self._bridges.drop()
            link.frames.put_nowait(wire.WelcomeFrame(resume_from=last))
            link.is_welcome = True
            async with asyncio.TaskGroup() as group:
                told = group.create_task(stopping.wait()), group.create_task(link.replaced.wait())
                work = [group.create_task(do(link)) for do in (self._read, self._write, self._deliver)]
                await asyncio.wait((*told, *work), return_when=asyncio.FIRST_COMPLETED)
                codes = [task.result() for task in work if task.done()]
                for task in (*told, *work):
                    task.cancel()
        except DatabaseError as error:
            note(error)
            return LATER
        finally:
            self._bridges.leave(link)
        return codes[0] if codes else (REPLACED if link.replaced.is_set() else RESTART)

    async def _hello(self, stopping: asyncio.Event) -> Link | int | None:
        """Wait for the first frame. Returns a code to close with, or None, if it does not come."""
        waiting = [asyncio.create_task(self._first()), asyncio.create_task(stopping.wait())]
        try:
            limit = self._limits.send_seconds
            await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if waiting[1].done():
                return RESTART
            return waiting[0].result() if waiting[0].done() else NO_HELLO
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    async def _first(self) -> Link | int | None:
        """What is no hello is an error, and the bridge may try again."""
        while isinstance(text := await self._receive(), str):
            try:
                frame = wire.BRIDGE_FRAME.validate_json(text)
            except ValidationError as error:
                refused = InvalidRequest(sentence(error.errors(include_url=False)))
            else:
                if isinstance(frame, wire.HelloFrame):
                    return Link(frame.bridge, frame.self_id) if frame.protocol == wire.PROTOCOL else NO_HELLO
                refused = InvalidRequest("The first frame must be hello.")
            if not await self._tell(_error(refused)):
                return None
        return text

    # ---- out ---------------------------------------------------------------------------------------------------------

    async def _write(self, link: Link) -> None:
        while await self._tell(await link.frames.get()):
            pass

    async def _tell(self, frame: wire.ServiceFrame) -> bool:
        return await self._send({"type": "websocket.send", "text": to_json(frame)})

    async def _send(self, message: dict[str, object]) -> bool:
        return await send(self._socket, message, self._limits.send_seconds, self._caller.name)

    async def _deliver(self, link: Link) -> int:
        """Send all that is undelivered, in order, each once. Returns the code to close with, if it cannot be read."""
        last = 0
        while True:
            link.more.clear()
            try:
                found = await self._deliveries.waiting(link.name, last)
            except DatabaseError as error:
                note(error)
                return LATER
            for delivery in found:
                await link.frames.put(convert.to_delivery(delivery))
                last = delivery.id
            if not found:
                await link.more.wait()

    # ---- in ----------------------------------------------------------------------------------------------------------

    async def _receive(self) -> str | int | None:
        """The next frame; a code to close with if it cannot be one; None if the bridge has left."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        return BINARY if text is None else text

    async def _read(self, link: Link) -> int | None:
        """Obey frames until the bridge leaves, or they cannot be kept: then returns a close code."""
        while isinstance(text := await self._receive(), str):
            try:
                await self._take(text, link)
            except (EngineStopped, DatabaseError) as error:  # it is not acknowledged, and comes again
                note(error)
                return LATER
        return text

    async def _take(self, text: str, link: Link) -> None:
        """What cannot be obeyed is an error, and acknowledged: it would be no better the next time."""
        frame: wire.BridgeFrame | None = None
        try:
            frame = wire.BRIDGE_FRAME.validate_json(text)
            await self._obey(frame, link)
        except ValidationError as error:
            await link.frames.put(_error(InvalidRequest(sentence(error.errors(include_url=False)))))
        except (EngineStopped, DatabaseError):
            raise
        except QqmemError as error:
            note(error)
            await link.frames.put(_error(error))
        except Exception:
            log.exception("a frame of the bridge %s", link.name)
            message = "The service has made a mistake; its log says more."
            await link.frames.put(wire.BridgeErrorFrame(code=INTERNAL, message=message))
        else:
            return
        try:
            seq = wire.Numbered.model_validate_json(text).seq
        except ValidationError:
            return
        await self._deliveries.advance(link.name, seq)
        await link.frames.put(wire.AckFrame(seq=seq))

    async def _obey(self, frame: wire.BridgeFrame, link: Link) -> None:
        match frame:
            case wire.MessageFrame():
                self._bridges.brings(link, frame.conversation)
                await self._chats.bring(convert.from_bridge(frame, link.name, self._limits.message_chars))
                await link.frames.put(wire.AckFrame(seq=frame.seq))
            case wire.WithdrawFrame() | wire.CancelFrame() | wire.NoticeFrame():
                if frame.seq > await self._deliveries.seq(link.name):
                    await self._heed(frame, link)
                    await self._deliveries.advance(link.name, frame.seq)
                await link.frames.put(wire.AckFrame(seq=frame.seq))
            case wire.DeliveredFrame():
                await self._bridges.delivered(link, frame)
            case wire.StatusFrame():
                self._bridges.tell(wire.BridgeStatusFrame(bridge=link.name, **frame.model_dump(exclude={"type"})))
            case wire.PingFrame():
                await link.frames.put(wire.PongFrame())
            case wire.HelloFrame():
                raise Conflict("This bridge has said hello already.")

    async def _heed(self, frame: wire.WithdrawFrame | wire.CancelFrame | wire.NoticeFrame, link: Link) -> None:
        match frame:
            case wire.WithdrawFrame():
                await self._chats.withdraw(frame.conversation, frame.message_id)
                await self._uploads.sweep(datetime.now(UTC))
                await self._bridges.count()
            case wire.CancelFrame():
                await self._chats.cancel(frame.conversation)
            case wire.NoticeFrame(kind="muted" | "kicked") if _is_about(frame, link):
                until = frame.until if frame.kind == "muted" else None
                await self._deliveries.mute(frame.conversation, until)
                await self._chats.cancel(frame.conversation)
            case wire.NoticeFrame(kind="poke" | "reaction", user_id=str(who)) if who != link.self_id:
                is_poke, now = frame.kind == "poke", asyncio.get_running_loop().time()
                is_answered = is_poke and self._bridges.may_answer_poke(frame.conversation, now)
                await self._chats.bring(convert.from_notice(frame, who, link.name, is_answered=is_answered))
            case wire.NoticeFrame(kind="unmuted" | "joined") if _is_about(frame, link):
                await self._deliveries.unmute(frame.conversation)


def _is_about(frame: wire.NoticeFrame, link: Link) -> bool:
    """Whether it has happened to the bot."""
    return frame.user_id is None or frame.user_id == link.self_id


def _error(error: QqmemError) -> wire.BridgeErrorFrame:
    return wire.BridgeErrorFrame(code=error.code, message=str(error))
