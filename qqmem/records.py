"""What is said, and what becomes of it: the records in which everybody speaks of messages and turns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Role = Literal["user", "assistant"]

Outcome = Literal["running", "replied", "no_reply", "superseded", "cancelled", "failed", "interrupted"]
"""How a turn ended. running: it has not. interrupted: the program died while it ran."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who said it. card: the name in that group. role: of the group, `owner`, `admin` or `member`."""

    id: str
    name: str
    card: str = ""
    role: str = ""

    @property
    def shown(self) -> str:
        """The name that the others see."""
        return self.card or self.name


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message to be stored.

    conversation: `private:<qq>` or `group:<gid>`.
    time: when it was said, with a zone.
    message_id: the platform's; a second message with the same one is a duplicate.
    reply_to: the platform's id of the message that it quotes.
    addressed: the platform says that it is meant for the bot.
    name: of the conversation, if known.
    bridge, seq: which brought it in, as its frame of this number. context_only: it is never answered.
    images: ids of uploads.
    """

    conversation: str
    sender: Sender
    text: str
    time: datetime
    message_id: str | None = None
    reply_to: str | None = None
    addressed: bool = False
    name: str = ""
    bridge: str = ""
    seq: int = 0
    context_only: bool = False
    images: tuple[str, ...] = ()

    def unstored(self) -> Message:
        """As what is answered but not kept: number 0."""
        return Message(
            id=0,
            conversation=self.conversation,
            role="user",
            message_id=self.message_id,
            sender=self.sender,
            text=self.text,
            reply_to=self.reply_to,
            addressed=True,
            time=self.time,
            turn=None,
            withdrawn=False,
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message.

    sender: its name is the one that was shown, its card is empty.
    turn: which wrote it (assistant), or which answered it last (user).
    """

    id: int
    conversation: str
    role: Role
    message_id: str | None
    sender: Sender
    text: str
    reply_to: str | None
    addressed: bool
    time: datetime
    turn: int | None
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class Action:
    """Something the bot does besides talking."""

    type: Literal["EMOJI_LIKE", "POKE"]
    emoji_id: int | None = None
    message_id: str | None = None
    user_id: str | None = None
    target: Literal["message", "user"] = "message"


@dataclass(frozen=True, slots=True)
class Recall:
    """One recall of a turn.

    cue: what the model had just written. memory: the one that came in. candidates: what there was to choose from,
    best first: id, score, fits, and lanes, each with rank, score and strength; no text.
    """

    cue: str
    mode: Literal["spliced", "decoded", "none"]
    memory: int | None
    candidates: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What became of a turn, under the names of the columns. Seconds count from submission to the engine."""

    outcome: Outcome
    reply: str = ""
    thinking: str = ""
    actions: tuple[Action, ...] = ()
    error: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0
    recalls: tuple[Recall, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One attempt to answer. messages: the ids of those that no later turn has answered."""

    id: int
    conversation: str
    started_at: datetime
    ended_at: datetime | None
    end: TurnEnd
    messages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One private chat or group. name: the last known one of the group or person."""

    id: str
    name: str
    created_at: datetime
    updated_at: datetime
    num_messages: int


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is of each."""

    conversations: int
    messages: int
    turns: int
