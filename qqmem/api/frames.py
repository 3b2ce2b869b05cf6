"""The frames of /ws/chat, which are also the server-sent events of POST /api/chat/*; docs/protocol.md explains them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from qqmem.api.wire import (
    Action,
    Candidate,
    ConversationId,
    ErrorBody,
    In,
    MessageId,
    Name,
    Out,
    Outcome,
    PartyId,
    Text,
    Timing,
    Usage,
    When,
)

# ---- WS /ws/chat: what the client sends ------------------------------------------------------------------------------


class FrameSender(In):
    """Who says it. card: the name in that group. role: owner, admin or member."""

    id: PartyId
    name: Name = ""
    card: Name = ""
    role: Annotated[str, Field(max_length=32)] = ""


class MessageFrame(In):
    """Somebody says something. name: of the conversation, such as the group's."""

    type: Literal["message"]
    conversation: ConversationId
    sender: FrameSender
    text: Text
    name: Name = ""
    message_id: MessageId | None = None
    reply_to: MessageId | None = None
    addressed: bool = False
    time: When | None = None


class CancelFrame(In):
    """Stop the reply that is being written."""

    type: Literal["cancel"]
    conversation: ConversationId


class WithdrawFrame(In):
    """The sender has taken a message back."""

    type: Literal["withdraw"]
    conversation: ConversationId
    message_id: MessageId


class PingFrame(In):
    """Answered by pong."""

    type: Literal["ping"]


ClientFrame = Annotated[MessageFrame | CancelFrame | WithdrawFrame | PingFrame, Field(discriminator="type")]
CLIENT_FRAME: TypeAdapter[ClientFrame] = TypeAdapter(ClientFrame)


# ---- WS /ws/chat and server-sent events: what the service sends ------------------------------------------------------


class AcceptedFrame(Out):
    """The message is stored. id: our number of it."""

    type: Literal["accepted"] = "accepted"
    conversation: str
    message_id: str | None = None
    id: int


class TurnStartFrame(Out):
    """A reply is being written. messages: the numbers of those that it answers."""

    type: Literal["turn.start"] = "turn.start"
    turn: int
    conversation: str
    messages: tuple[int, ...]


class TokenFrame(Out):
    """More text of a turn. n: tokens so far; tokens that wait for a slow reader come as one frame."""

    type: Literal["token"] = "token"
    turn: int
    channel: Literal["think", "memory", "reply"]
    text: str
    n: int


class RecallFrame(Out):
    """A turn has looked for a memory. cue: what it had just thought. chosen: the memory that came in, if one fitted.

    mode: none if nothing fitted, spliced if the stored text was read, decoded if the model wrote just that by itself.
    """

    type: Literal["recall"] = "recall"
    turn: int
    cue: str
    candidates: tuple[Candidate, ...]
    chosen: int | None = None
    mode: Literal["spliced", "decoded", "none"]


class TurnEndFrame(Out):
    """The end of waiting for one message. id: its number, as in `accepted`; turn: absent if it got none."""

    type: Literal["turn.end"] = "turn.end"
    turn: int | None = None
    conversation: str
    id: int
    outcome: Outcome
    reply: str
    actions: tuple[Action, ...]
    usage: Usage
    timing: Timing
    error: ErrorBody | None = None


class ErrorFrame(Out):
    """A frame could not be obeyed; nothing of it was stored. conversation, message_id: its own, if it had them."""

    type: Literal["error"] = "error"
    error: ErrorBody
    conversation: str | None = None
    message_id: str | None = None


class PongFrame(Out):
    """The answer to ping."""

    type: Literal["pong"] = "pong"


ServerFrame = AcceptedFrame | TurnStartFrame | TokenFrame | RecallFrame | TurnEndFrame | ErrorFrame | PongFrame
