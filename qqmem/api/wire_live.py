"""The frames of /ws/live that /ws/chat does not have in this shape; docs/protocol.md explains them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from qqmem.api.frames import RecallFrame, TokenFrame, TurnStartFrame
from qqmem.api.wire import Action, ErrorBody, Message, Out, Outcome, Recall, Timing, Usage
from qqmem.api.wire_bridge import BridgeConnectedFrame, BridgeDeliveryFrame, BridgeSeen, BridgeStatusFrame
from qqmem.api.wire_system import Health
from qqmem.api.wire_training import TrainingRun

MOST_IDS = 200
"""Ids that one frame names; its `count` tells of all."""

# ---- what is said ----------------------------------------------------------------------------------------------------


class HeardFrame(Message):
    """Somebody has said something, and it is stored."""

    conversation: str


class LiveTokenFrame(TokenFrame):
    """More text of a turn; what was written within a tick comes as one."""

    conversation: str


class LiveRecallFrame(RecallFrame):
    """A turn has looked for a memory."""

    conversation: str


class LiveEndFrame(Out):
    """The end of a turn. turn: absent if messages got none, and then there is one for each of them."""

    type: Literal["turn.end"] = "turn.end"
    turn: int | None = None
    conversation: str
    outcome: Outcome
    reply: str
    actions: tuple[Action, ...]
    usage: Usage
    timing: Timing
    error: ErrorBody | None = None


# ---- memories and training -------------------------------------------------------------------------------------------


class MemoryFrame(Out):
    """Memories have come, are other than they were, or are gone. scope: of all of them, if it is one and known.

    ids: MOST_IDS at most. count: all.
    """

    type: Literal["memory.added", "memory.changed", "memory.forgotten"]
    ids: tuple[int, ...]
    count: int
    scope: str | None = None


class RunFrame(Out):
    """A training run has begun, goes on with another stage, has figures, or has ended."""

    type: Literal["training.run"] = "training.run"
    run: TrainingRun


class Progress(Out):
    """How far a run is. step of steps of the stage; loss by parts; tokens a second; seconds that are left."""

    run: int
    stage: str
    step: int | None = None
    steps: int | None = None
    loss: dict[str, float] = Field(default_factory=dict)
    tokens_s: float | None = None
    left_s: float | None = None


class ProgressFrame(Progress):
    """A run goes on; a few times a second at most."""

    type: Literal["training.progress"] = "training.progress"


class ReleaseFrame(Out):
    """Another release serves. release: absent is the untrained model."""

    type: Literal["training.release"] = "training.release"
    release: str | None = None


# ---- the service -----------------------------------------------------------------------------------------------------


class Load(Out):
    """Replies that are being written, and in line. tokens_s: written for conversations, a second; absent: not known."""

    running: int
    waiting: int
    tokens_s: float | None = None


class EngineFrame(Load):
    """The engine has another load; once a second at most."""

    type: Literal["engine"] = "engine"


class HealthFrame(Out):
    """The service is otherwise than before."""

    type: Literal["health"] = "health"
    health: Health


class TurnSoFar(Out):
    """A turn that is being written. text: what it has written, by channel. recalls: so far."""

    turn: int
    conversation: str
    messages: tuple[int, ...]
    text: dict[Literal["think", "memory", "reply"], str]
    n: int
    recalls: tuple[Recall, ...]


class SnapshotFrame(Out):
    """All that goes on; the frames behind it go on from here. run: the newest of the training. bridges: connected."""

    type: Literal["snapshot"] = "snapshot"
    time: datetime
    turns: tuple[TurnSoFar, ...]
    engine: Load
    health: Health
    run: TrainingRun | None = None
    progress: Progress | None = None
    release: str | None = None
    bridges: tuple[BridgeSeen, ...] | None = None


class LaggedFrame(Out):
    """n frames were skipped, since they were not read in time; a snapshot follows."""

    type: Literal["lagged"] = "lagged"
    n: int


LiveFrame = (
    SnapshotFrame
    | LaggedFrame
    | HeardFrame
    | TurnStartFrame
    | LiveTokenFrame
    | LiveRecallFrame
    | LiveEndFrame
    | MemoryFrame
    | RunFrame
    | ProgressFrame
    | ReleaseFrame
    | BridgeConnectedFrame
    | BridgeStatusFrame
    | BridgeDeliveryFrame
    | EngineFrame
    | HealthFrame
)
