"""The frames of /ws/bridge; docs/protocol.md explains them. Unknown fields are let pass: the bridge may be newer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from qqmem.api.wire import Action, ConversationId, In, MessageId, Name, Out, PartyId, Text, When

PROTOCOL = 1
MOST = 2**53
"""Of what JSON can count exactly."""

Seq = Annotated[int, Field(strict=True, ge=1, le=MOST)]
BridgeName = Annotated[str, Field(pattern="^[0-9A-Za-z_.-]{1,64}$")]
Reason = Annotated[Text, Field(max_length=500)]
Count = Annotated[int, Field(ge=0, le=MOST)]


class _In(In):
    model_config = ConfigDict(extra="ignore")


class Numbered(_In):
    """What the bridge keeps until it is acknowledged. seq: rising."""

    seq: Seq


class HelloFrame(_In):
    """The first frame. last_acked: the last delivery whose outcome the bridge has told."""

    type: Literal["hello"]
    protocol: int
    bridge: BridgeName
    self_id: PartyId
    last_acked: Annotated[int, Field(ge=0)] = 0


class BridgeSender(_In):
    """Who says it. card: the name in that group. role: owner, admin or member."""

    id: PartyId
    name: Name = ""
    card: Name = ""
    role: Annotated[str, Field(max_length=32)] = ""


class MessageFrame(Numbered):
    """Somebody says something. context_only: it is stored, and never answered. images: ids of uploads."""

    type: Literal["message"]
    conversation: ConversationId
    message_id: MessageId
    sender: BridgeSender
    group_name: Name = ""
    text: Text = ""
    reply_to: MessageId | None = None
    addressed: bool = False
    time: When
    context_only: bool = False
    images: Annotated[tuple[str, ...], Field(max_length=100)] = ()


class WithdrawFrame(Numbered):
    """A message was taken back."""

    type: Literal["withdraw"]
    conversation: ConversationId
    message_id: MessageId


class NoticeFrame(Numbered):
    """Something has happened. user_id: to whom; or who has poked the bot, or reacted; the bot, if absent.

    name: of who has done it. message_id, emoji_id: what was reacted to, and how. time: of a poke or a reaction.
    """

    type: Literal["notice"]
    conversation: ConversationId
    kind: Literal["poke", "reaction", "muted", "unmuted", "kicked", "joined"]
    user_id: PartyId | None = None
    until: When | None = None
    name: Name = ""
    message_id: MessageId | None = None
    emoji_id: Annotated[int, Field(ge=0, le=0x10FFFF)] | None = None
    time: When | None = None


class CancelFrame(Numbered):
    """Stop the reply that is being written."""

    type: Literal["cancel"]
    conversation: ConversationId


class DeliveredFrame(_In):
    """What has become of a delivery. message_ids: under which it was sent."""

    type: Literal["delivered"]
    delivery_id: Annotated[int, Field(ge=1, le=MOST)]
    status: Literal["sent", "failed", "unknown"]
    message_ids: Annotated[tuple[MessageId, ...], Field(max_length=100)] = ()
    reason: Reason = ""


class StatusFrame(_In):
    """How the bridge is. napcat: it is connected. online: so is the account. queued: messages to be sent."""

    type: Literal["status"]
    napcat: bool
    online: bool
    queued: Count = 0
    counters: Annotated[dict[Annotated[str, Field(max_length=64)], Count], Field(max_length=100)] = Field(
        default_factory=dict
    )


class PingFrame(_In):
    """Answered by pong."""

    type: Literal["ping"]


BridgeFrame = Annotated[
    HelloFrame | MessageFrame | WithdrawFrame | NoticeFrame | CancelFrame | DeliveredFrame | StatusFrame | PingFrame,
    Field(discriminator="type"),
]
BRIDGE_FRAME: TypeAdapter[BridgeFrame] = TypeAdapter(BridgeFrame)


# ---- what the service sends ------------------------------------------------------------------------------------------


class WelcomeFrame(Out):
    """resume_from: the last frame of this bridge that is stored; it sends again what is above."""

    type: Literal["welcome"] = "welcome"
    protocol: int = PROTOCOL
    resume_from: int


class AckFrame(Out):
    """The frame is stored, or refused for good: the bridge may forget it."""

    type: Literal["ack"] = "ack"
    seq: int


class TurnFrame(Out):
    """A reply is being written, or no longer. message_ids: of what it answers."""

    type: Literal["turn"] = "turn"
    conversation: str
    state: Literal["started", "ended"]
    outcome: str | None = None
    message_ids: tuple[str, ...]


class DeliveryFrame(Out):
    """Something to send. parts: paragraphs; none if there are but actions. quote: the message to quote."""

    type: Literal["delivery"] = "delivery"
    delivery_id: int
    conversation: str
    in_reply_to: tuple[str, ...]
    parts: tuple[str, ...]
    quote: str | None = None
    actions: tuple[Action, ...]
    created: datetime


class BridgeErrorFrame(Out):
    """A frame could not be obeyed."""

    type: Literal["error"] = "error"
    code: str
    message: str


class PongFrame(Out):
    """The answer to ping."""

    type: Literal["pong"] = "pong"


ServiceFrame = WelcomeFrame | AckFrame | TurnFrame | DeliveryFrame | BridgeErrorFrame | PongFrame


# ---- what watchers see -----------------------------------------------------------------------------------------------


class BridgeStatus(Out):
    """How a bridge is, as it says itself."""

    napcat: bool
    online: bool
    queued: int
    counters: dict[str, int]


class BridgeSeen(Out):
    """A bridge that is connected. self_id: the bot's account. status: once it has told."""

    bridge: str
    self_id: str
    status: BridgeStatus | None = None


class BridgeConnectedFrame(Out):
    """A bridge has come, or is gone."""

    type: Literal["bridge.connected"] = "bridge.connected"
    bridge: str
    self_id: str
    connected: bool


class BridgeStatusFrame(BridgeStatus):
    """A bridge has told how it is."""

    type: Literal["bridge.status"] = "bridge.status"
    bridge: str


class BridgeDeliveryFrame(Out):
    """What has become of a reply. reason: why it was not sent."""

    type: Literal["bridge.delivery"] = "bridge.delivery"
    bridge: str
    delivery_id: int
    conversation: str
    status: Literal["sent", "failed", "unknown"]
    reason: str | None = None


BridgeLiveFrame = BridgeConnectedFrame | BridgeStatusFrame | BridgeDeliveryFrame
