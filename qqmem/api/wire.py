"""The wire: every JSON shape of the HTTP routes, and the parts that frames.py shares with them.

What comes in is strict: an unknown field is an error. What goes out leaves out what is null.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

EARLIEST, LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""Between them a time can be shown in every zone."""


def _in_range(time: datetime) -> datetime:
    if not EARLIEST < time < LATEST:
        raise ValueError("must lie between 1970 and 9999")
    return time


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair, which no file or database can hold
        raise ValueError("holds half a character") from error
    return text


Text = Annotated[str, AfterValidator(_unicode)]
_NUMBER_TOO = {"type": ["string", "integer"]}
ConversationId = Annotated[
    str,
    Field(pattern="^(private|group):[0-9A-Za-z_-]{1,64}$", description="`private:<id>` or `group:<id>`."),
]
PartyId = Annotated[
    str,
    Field(coerce_numbers_to_str=True, pattern="^[0-9A-Za-z_-]{1,64}$", json_schema_extra=_NUMBER_TOO),
]
"""A QQ number, or the number of a group."""
MessageId = Annotated[
    str,
    Field(coerce_numbers_to_str=True, min_length=1, max_length=128, json_schema_extra=_NUMBER_TOO),
    AfterValidator(_unicode),
]
"""The platform's id of a message."""
Name = Annotated[Text, Field(max_length=256)]
When = Annotated[AwareDatetime, AfterValidator(_in_range)]
"""ISO 8601 with a zone, or seconds since 1970."""
INTERNAL = "internal"
"""`error.code` of a bug."""
Outcome = Literal["replied", "no_reply", "superseded", "cancelled", "failed"]


def example(**fields: Any) -> dict[str, Any]:
    """For a shape's `json_schema_extra`."""
    return {"examples": [fields]}


class In(BaseModel):
    """What comes in."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Out(BaseModel):
    """What goes out; made from the records inside by model_validate."""

    model_config = ConfigDict(from_attributes=True)


def to_json(shape: Out) -> str:
    """One line, without what is null."""
    return shape.model_dump_json(exclude_none=True)


# ---- shared parts ----------------------------------------------------------------------------------------------------


class ErrorBody(Out):
    """What went wrong. code: for programs. message: one sentence for people."""

    code: str
    message: str


class ErrorAnswer(Out):
    """The body of every HTTP error."""

    model_config = ConfigDict(
        json_schema_extra=example(error={"code": "not_found", "message": "There is no conversation private:404."})
    )
    error: ErrorBody


class Action(Out):
    """Something the bot does besides talking: a reaction to a message, or a poke."""

    type: Literal["EMOJI_LIKE", "POKE"]
    target: Literal["message", "user"]
    emoji_id: int | None = None
    message_id: str | None = None
    user_id: str | None = None


class Usage(Out):
    """Tokens: of the prompt, of those that were still in the cache, and written."""

    prompt: int
    cached: int
    completion: int


class Timing(Out):
    """Seconds from asking the model to its first step, to the first token, and to the end."""

    queue: float
    first_token: float
    total: float


# ---- POST /api/chat/* ------------------------------------------------------------------------------------------------


class _ChatRequest(In):
    user_id: PartyId
    user_nickname: Name = ""
    content: Text = Field(default="", description="The text; not empty.")
    message_id: MessageId | None = Field(default=None, description="A second message with the same id is a duplicate.")
    reply_to: MessageId | None = Field(default=None, description="The message that this one quotes.")
    addressed: bool = Field(default=False, description="It is known to be meant for the bot.")
    timestamp: When | None = Field(
        default=None, description="Seconds since 1970, or ISO 8601 with a zone. Default: now."
    )
    image_urls: tuple[str, ...] = Field(
        default=(), max_length=32, description="Not looked at yet; noted in the text as [图片]."
    )
    video_urls: tuple[str, ...] = Field(
        default=(), max_length=32, description="Not looked at yet; noted in the text as [视频]."
    )
    type: str | None = Field(default=None, description="Ignored; older clients send it.")


class PrivateChat(_ChatRequest):
    """A private message."""

    model_config = ConfigDict(
        json_schema_extra=example(user_id=10001, user_nickname="小明", content="你好", message_id="5501")
    )


class GroupChat(_ChatRequest):
    """A message in a group."""

    model_config = ConfigDict(
        json_schema_extra=example(
            group_id=20002,
            group_name="读书会",
            user_id=10001,
            user_nickname="小明",
            user_card="会长",
            content="小忆，今天读什么？",
            timestamp=1795000000.0,
        )
    )
    group_id: PartyId
    group_name: Name = ""
    user_card: Name = ""


class ChatAnswer(Out):
    """How the turn that answers the message ended.

    status: success also when the bot stays silent or was told to stop; superseded when a newer message took over.
    """

    model_config = ConfigDict(
        json_schema_extra=example(
            status="success", outcome="replied", should_reply=True, reply="你好呀！", actions=[], turn_id=7
        )
    )
    status: Literal["success", "superseded", "error"]
    outcome: Outcome
    should_reply: bool
    reply: str
    actions: tuple[Action, ...] = ()
    turn_id: int | None = None
    error: ErrorBody | None = None


# ---- /api/conversations, /health -------------------------------------------------------------------------------------


_CONVERSATION = {
    "id": "group:20002",
    "name": "读书会",
    "created_at": "2026-11-22T09:00:00Z",
    "updated_at": "2026-11-22T09:00:01.200000Z",
    "num_messages": 2,
}
MESSAGE = {
    "type": "message",
    "id": 41,
    "role": "user",
    "sender": {"id": "10001", "name": "会长", "role": "admin"},
    "text": "小忆，今天读什么？",
    "time": "2026-11-22T09:00:00Z",
    "message_id": "5501",
    "addressed": True,
    "withdrawn": False,
    "turn": 7,
}
_RECALL = {
    "cue": "我先回想一下：",
    "candidates": [
        {
            "id": 12,
            "score": 5.1,
            "fits": True,
            "lanes": {
                "text": {"rank": 1, "score": 0.91, "strength": 3.2},
                "lexical": {"rank": 1, "score": 7.4, "strength": 0.48},
            },
        }
    ],
    "chosen": 12,
    "mode": "spliced",
}
_TURN = {
    "type": "turn",
    "id": 7,
    "started_at": "2026-11-22T09:00:00.300000Z",
    "ended_at": "2026-11-22T09:00:01.200000Z",
    "messages": [41],
    "outcome": "replied",
    "reply": "今天读《边城》。",
    "actions": [],
    "usage": {"prompt": 412, "cached": 380, "completion": 9},
    "timing": {"queue": 0.01, "first_token": 0.2, "total": 0.9},
    "error": "",
    "recalls": [_RECALL],
}


class Conversation(Out):
    """One private chat or group. name: the last known one of the group or person."""

    model_config = ConfigDict(json_schema_extra=example(**_CONVERSATION))
    id: str
    name: str
    created_at: datetime
    updated_at: datetime
    num_messages: int


class ConversationPage(Out):
    """The last updated first. next: give it as `before` to get the next page; absent on the last one."""

    model_config = ConfigDict(json_schema_extra=example(conversations=[_CONVERSATION]))
    conversations: tuple[Conversation, ...]
    next: str | None = None


class Sender(Out):
    """Who said it, by the name that was shown; empty for the bot."""

    id: str
    name: str
    role: str


class Message(Out):
    """A stored message. turn: which wrote it (assistant), or which answered it last (user)."""

    type: Literal["message"] = "message"
    id: int
    role: Literal["user", "assistant"]
    sender: Sender
    text: str
    time: datetime
    message_id: str | None = None
    reply_to: str | None = None
    addressed: bool
    withdrawn: bool
    turn: int | None = None


class LaneScore(Out):
    """What one way of searching says. rank: from 1. score: its own. strength: normalised over all texts."""

    rank: int
    score: float
    strength: float


class Candidate(Out):
    """A memory that a recall could choose. score: of all lanes together. fits: it is above the floor."""

    id: int
    score: float
    fits: bool
    lanes: dict[str, LaneScore]


class Recall(Out):
    """One recall of a turn. cue: what it had just thought. chosen: the memory that came in; mode: how."""

    cue: str
    candidates: tuple[Candidate, ...]
    chosen: int | None = None
    mode: Literal["spliced", "decoded", "none"]


class Turn(Out):
    """One attempt to answer. messages: the numbers of those that no later turn has answered.

    outcome: interrupted if the service died meanwhile. thinking: only in an export or a trace.
    """

    type: Literal["turn"] = "turn"
    id: int
    started_at: datetime
    ended_at: datetime | None = None
    messages: tuple[int, ...]
    outcome: Literal["running", "replied", "no_reply", "superseded", "cancelled", "failed", "interrupted"]
    reply: str
    thinking: str | None = None
    actions: tuple[Action, ...]
    usage: Usage
    timing: Timing
    error: str
    recalls: tuple[Recall, ...] = ()


class MessagePage(Out):
    """Messages, oldest first, and the turns that they belong to. next: as `before`, the page of older ones."""

    model_config = ConfigDict(json_schema_extra=example(messages=[MESSAGE], turns=[_TURN], next=41))
    messages: tuple[Message, ...]
    turns: tuple[Turn, ...]
    next: int | None = None


class Cancelled(Out):
    """cancelled: whether a reply was being written."""

    model_config = ConfigDict(json_schema_extra=example(cancelled=True))
    cancelled: bool
