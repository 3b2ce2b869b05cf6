"""Frames of `WS /ws/bridge` that the service sends. Unknown fields are let pass: the service may be newer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

PROTOCOL = 1
Chat = Annotated[str, Field(pattern=r"^(private|group):[0-9]{1,20}$")]
MessageId = Annotated[str, Field(pattern=r"^-?[0-9]{1,20}$")]


class _Frame(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Welcome(_Frame):
    """resume_from: highest seq of this bridge that the service has stored."""

    type: Literal["welcome"]
    protocol: int
    resume_from: int


class Ack(_Frame):
    """The frame with this seq is stored."""

    type: Literal["ack"]
    seq: int


class Turn(_Frame):
    """A reply is being written, or no longer."""

    type: Literal["turn"]
    conversation: Chat
    state: Literal["started", "ended"]
    outcome: str | None = None
    message_ids: tuple[MessageId, ...] = ()


class Delivery(_Frame):
    """A reply to send. quote: message to quote; at: user to @."""

    type: Literal["delivery"]
    delivery_id: int = Field(ge=1)
    conversation: Chat
    in_reply_to: tuple[MessageId, ...] = ()
    parts: tuple[str, ...] = ()
    quote: MessageId | None = None
    at: Annotated[str, Field(pattern=r"^[0-9]{1,20}$")] | None = None
    actions: tuple[dict[str, Any], ...] = ()
    created: str = ""


class Error(_Frame):
    """What the service did not like."""

    type: Literal["error"]
    code: str = ""
    message: str = ""


class Pong(_Frame):
    """The answer to a ping."""

    type: Literal["pong"]


ServiceFrame = Annotated[Welcome | Ack | Turn | Delivery | Error | Pong, Field(discriminator="type")]
FRAME: TypeAdapter[ServiceFrame] = TypeAdapter(ServiceFrame)
