"""The shapes of /api/training."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from qqmem.api.wire import In, Out, example

_RUN = {
    "id": 3,
    "actor": "api:admin",
    "state": "done",
    "stage": "mark",
    "started_at": "2026-11-22T02:00:00Z",
    "ended_at": "2026-11-22T02:21:40Z",
    "error": "",
    "release": "0002",
    "metrics": {"export": {"memories": 60}, "gate": {"recall_at_1": 0.97, "exact": 0.98}},
}
_PROGRESS = {"stage": "stage2", "step": 40, "steps": 120, "loss": {"total": 0.71}, "tokens_s": 310.0, "left_s": 260.0}


class TrainingRun(Out):
    """A run of the training.

    actor: who began it. state: refused means that the gate did not let it serve; interrupted, that the service ended
    meanwhile. stage: what it is at, or was at when it ended. error: why it did not go well. release: what it published.
    """

    model_config = ConfigDict(json_schema_extra=example(**_RUN))
    id: int
    actor: str
    state: Literal["running", "done", "refused", "failed", "interrupted", "cancelled"]
    stage: Literal["", "export", "stage1", "stage2", "gate", "publish", "swap", "mark"]
    started_at: datetime
    ended_at: datetime | None = None
    error: str
    release: str
    metrics: dict[str, Any]


class TrainingReport(Out):
    """What the gate has found of a run; what it could not measure is missing or null.

    passed, reason: its verdict. faults: measures that are not within their bounds. trigger, lanes: how it would serve;
    margin: by how many nats the model has to be surer than not, before it recalls by itself.
    before, after: measures of what served and of what was trained, with `ranks` of the wanted memories for held-out
    questions. compared: the same of other ways to train. ids: of its memories; decodable: of those that it writes
    exactly. thresholds: the settings train.gate. stages: figures of the stages.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra=example(
            run=3,
            model="qwen2.5-coder-0.5b",
            language="zh",
            passed=False,
            reason="The gate refused it: exact is 0.333, below 0.500.",
            faults=[{"measure": "exact", "value": 0.333, "relation": "below", "bound": 0.5}],
            trigger="model",
            margin=0.25,
            lanes={"state": 2.0, "text": 1.0, "lexical": 3.0},
            before={"recall_at_1": 0.25, "ranks": [1, 4, 2, 3]},
            after={"recall_at_1": 1.0, "exact": 0.333, "ranks": [1, 1, 1, 1]},
            compared={"mse": {"recall_at_1": 0.75, "ranks": [1, 1, 2, 1]}},
            memories=3,
            ids=[7, 8, 9],
            decodable=[8],
            thresholds={"recall_at_1": 0.8, "exact": 0.5},
            stages={"stage1": {"steps": 120, "seconds": 410.5, "tokens_s": 318.2}},
        ),
    )
    passed: bool
    reason: str
    trigger: Literal["model", "both", "score"]
    lanes: dict[str, float]
    margin: float = 0.0
    run: int | None = None
    model: str = ""
    language: Literal["zh", "en"] = "zh"
    faults: tuple[dict[str, Any], ...] = ()
    before: dict[str, Any] = Field(default_factory=dict)
    after: dict[str, Any] = Field(default_factory=dict)
    compared: dict[str, dict[str, Any]] = Field(default_factory=dict)
    memories: int = 0
    ids: tuple[int, ...] = ()
    decodable: tuple[int, ...] = ()
    thresholds: dict[str, float] = Field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)


class TrainingStep(Out):
    """A step of a stage, as frames of `training.progress` tell it."""

    stage: str
    step: int
    steps: int | None = None
    loss: dict[str, float] = Field(default_factory=dict)
    tokens_s: float | None = None
    left_s: float | None = None


class TrainingProgress(Out):
    """What the trainers have told of a run, the oldest first; of a long stage, every so many steps."""

    model_config = ConfigDict(json_schema_extra=example(points=[_PROGRESS]))
    points: tuple[TrainingStep, ...]


class TrainingRunPage(Out):
    """Runs, the newest first. next: as `before`, the page of older ones."""

    model_config = ConfigDict(json_schema_extra=example(runs=[_RUN]))
    runs: tuple[TrainingRun, ...]
    next: int | None = None


class Triggered(Out):
    """A run has begun. success, status, message: as older clients know them."""

    model_config = ConfigDict(
        json_schema_extra=example(
            success=True, status="started", message="训练已经开始", run={**_RUN, "state": "running", "release": ""}
        )
    )
    success: Literal[True] = True
    status: Literal["started"] = "started"
    message: str = "训练已经开始"
    run: TrainingRun


class TrainingStatus(Out):
    """How the training is.

    enabled: whether it begins by schedule, next at next_run. is_running, is_training: whether a run is going on.
    run: the newest. progress: of a run that is going on: stage, step of steps, loss by parts, tokens_s, and seconds
    left_s. release: the one in force, `starter` for the one that comes with the program; null is the untrained model.
    """

    model_config = ConfigDict(
        json_schema_extra=example(
            enabled=True,
            is_running=True,
            is_training=True,
            next_run="2026-11-25T02:00:00Z",
            release="0001",
            run={**_RUN, "state": "running", "stage": "stage2", "release": ""},
            progress=_PROGRESS,
        )
    )
    enabled: bool
    is_running: bool
    is_training: bool
    next_run: datetime | None = None
    release: str | None = None
    run: TrainingRun | None = None
    progress: dict[str, Any]


class Job(Out):
    """What the schedule will do."""

    id: Literal["memory_training"] = "memory_training"
    next_run_time: datetime
    trigger: str


class TrainingDebug(Out):
    """For those who look for a fault. config: the settings of the training."""

    model_config = ConfigDict(
        json_schema_extra=example(
            is_running=False,
            is_training=False,
            jobs=[
                {
                    "id": "memory_training",
                    "next_run_time": "2026-11-25T02:00:00Z",
                    "trigger": "every 3 days at 02:00",
                }
            ],
            config={"enabled": True, "hour": 2, "interval": 3},
        )
    )
    is_running: bool
    is_training: bool
    jobs: tuple[Job, ...]
    config: dict[str, Any]


class Release(Out):
    """A release. fault: why it cannot be used; the figures are then missing."""

    model_config = ConfigDict(from_attributes=True)
    release: str
    is_current: bool
    fault: str = ""
    created_at: str = ""
    trigger: Literal["model", "both", "score"] | None = None
    memories: int = 0
    decodable: int = 0
    metrics: dict[str, Any] = Field(default_factory=dict)


class ReleaseList(Out):
    """All releases, the newest first, the starter last. current: the one in force; null is the untrained model."""

    model_config = ConfigDict(
        json_schema_extra=example(
            current="0002",
            releases=[
                {
                    "release": "0002",
                    "is_current": True,
                    "fault": "",
                    "created_at": "2026-11-22T02:21:38+00:00",
                    "trigger": "model",
                    "memories": 60,
                    "decodable": 59,
                    "metrics": {"recall_at_1": 0.97},
                }
            ],
        )
    )
    current: str | None = None
    releases: tuple[Release, ...]


class Rollback(In):
    """Which release to go back to; without one, to that before the present one."""

    model_config = ConfigDict(json_schema_extra=example(release="0001"))
    release: Annotated[str, Field(pattern=r"^(base|starter|\d{4,9})$")] | None = Field(
        default=None,
        description="Its name, `starter` for the one that comes with the program, or `base` for the untrained model.",
    )


class RolledBack(Out):
    """release: the one in force now; null is the untrained model."""

    model_config = ConfigDict(json_schema_extra=example(release="0001"))
    release: str | None = None


class Stopped(Out):
    """Whether a run was going on."""

    model_config = ConfigDict(json_schema_extra=example(cancelled=True))
    cancelled: bool


class Saved(Out):
    """saved_count: conversations. Everything is stored when it is said; this only tells older clients so."""

    model_config = ConfigDict(json_schema_extra=example(success=True, saved_count=4, message="聊天记录随时都已保存"))
    success: Literal[True] = True
    saved_count: int
    message: str = "聊天记录随时都已保存"
