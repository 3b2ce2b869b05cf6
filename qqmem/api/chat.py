"""Routes to talk with the bot: two that wait for the reply, and a WebSocket for many conversations."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response, WebSocket

from qqmem.api import convert
from qqmem.api.problems import documented
from qqmem.api.socket import Socket
from qqmem.api.state import Chatter, TheChats, TheCondition, TheGuard, TheLimits, TheSockets
from qqmem.api.stream import ReplyEvents, Stream, while_connected
from qqmem.api.wire import ChatAnswer, GroupChat, PrivateChat, to_json
from qqmem.chat import Chats
from qqmem.records import Incoming

router = APIRouter(tags=["chat"])

LEFT = 499
"""Status, for the counters only, of a request whose client has left."""

_EVENTS = """data: {"type":"accepted","conversation":"private:10001","id":41}

data: {"type":"turn.start","turn":7,"conversation":"private:10001","messages":[41]}

data: {"type":"token","turn":7,"channel":"reply","text":"你好","n":1}

"""
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"example": _EVENTS}}},
    **documented(400, 401, 403, 413, 422, 429),
    500: {"model": ChatAnswer, "description": "The reply could not be written; `error` says why."},
    503: {"model": ChatAnswer, "description": "The service is stopping, or its model has failed."},
}
AsEvents = Annotated[bool, Query(description="Answer with server-sent events: the frames of /ws/chat.")]


@router.post("/api/chat/private", response_model=ChatAnswer, responses=_RESPONSES)
async def chat_private(
    body: PrivateChat, request: Request, _: Chatter, chats: TheChats, limits: TheLimits, stream: AsEvents = False
) -> Response:
    """Say something in private, and wait for the reply. Leaving before stops it."""
    incoming = convert.from_private(body, limits.message_chars)
    return await _answer(incoming, request, chats, limits.send_seconds if stream else None)


@router.post("/api/chat/group", response_model=ChatAnswer, responses=_RESPONSES)
async def chat_group(
    body: GroupChat, request: Request, _: Chatter, chats: TheChats, limits: TheLimits, stream: AsEvents = False
) -> Response:
    """Say something in a group, and wait for the reply, or for the decision to stay silent. Leaving before stops it."""
    incoming = convert.from_group(body, limits.message_chars)
    return await _answer(incoming, request, chats, limits.send_seconds if stream else None)


async def _answer(incoming: Incoming, request: Request, chats: Chats, events: float | None) -> Response:
    """events: None, or the seconds that a client of server-sent events may leave them unread."""
    reply = await chats.send(incoming)
    if events is not None:
        return Stream(ReplyEvents(reply), events, "text/event-stream")
    async with aclosing(reply):
        end = await while_connected(request.receive, reply.end())
    if end is None:
        return Response(status_code=LEFT)
    status, answer = convert.to_answer(end)
    return Response(to_json(answer), status, media_type="application/json")


@router.websocket("/ws/chat")
async def chat_socket(
    socket: WebSocket,
    caller: Chatter,
    chats: TheChats,
    guard: TheGuard,
    limits: TheLimits,
    condition: TheCondition,
    sockets: TheSockets,
) -> None:
    """Talk in any number of conversations; docs/protocol.md has the frames."""
    task = asyncio.current_task()
    assert task is not None, "a route runs in a task"
    sockets.add(task)
    try:
        await Socket(socket, caller, chats, guard, limits).serve(condition.stopping)
    finally:
        sockets.discard(task)
