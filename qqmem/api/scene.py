"""What goes on in the whole service, as one who looks for the first time has to be told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from qqmem.api import convert
from qqmem.api.wire_bridge import BridgeConnectedFrame, BridgeLiveFrame, BridgeSeen, BridgeStatus, BridgeStatusFrame
from qqmem.api.wire_live import Load, Progress, SnapshotFrame, TurnSoFar
from qqmem.api.wire_system import Health
from qqmem.api.wire_training import TrainingRun
from qqmem.chat import Event, Recalled, Token, TurnEnded, TurnStarted
from qqmem.records import Recall
from qqmem.runs import Run


@dataclass(slots=True)
class _Turn:
    """One that is being written. text: by channel, in pieces."""

    begun: TurnStarted
    text: defaultdict[Literal["think", "memory", "reply"], list[str]] = field(default_factory=lambda: defaultdict(list))
    n: int = 0
    recalls: list[Recall] = field(default_factory=list)


class Scene:
    """Takes what happens. Of turns it holds those that are being written, so their texts bound it.

    run, progress: the newest training run, and the last that was heard of it, if it goes on. release: which serves.
    written: tokens of all turns.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self.progress: Mapping[str, Any] = {}
        self.release: str | None = None
        self.written = 0
        self._turns: dict[int, _Turn] = {}
        self._bridges: dict[str, BridgeSeen] = {}

    def take(self, event: Event) -> str | None:
        """Returns the conversation that it happened in; None, and nothing is done, if that is not known."""
        match event:
            case TurnStarted():
                self._turns[event.turn] = _Turn(event)
                return event.conversation
            case TurnEnded():
                if event.turn is not None:
                    self._turns.pop(event.turn, None)
                return event.conversation
        turn = self._turns.get(event.turn)
        if turn is None:
            return None
        match event:
            case Token():
                turn.text[event.channel].append(event.text)
                self.written += event.n - turn.n
                turn.n = event.n
            case Recalled():
                turn.recalls.append(event.recall)
        return turn.begun.conversation

    def bridged(self, frame: BridgeLiveFrame) -> None:
        """A bridge comes, goes, or tells how it is."""
        match frame:
            case BridgeConnectedFrame(connected=True):
                self._bridges[frame.bridge] = BridgeSeen(bridge=frame.bridge, self_id=frame.self_id)
            case BridgeConnectedFrame():
                self._bridges.pop(frame.bridge, None)
            case BridgeStatusFrame():
                self._bridges[frame.bridge].status = BridgeStatus.model_validate(frame)

    @property
    def bridges(self) -> tuple[BridgeSeen, ...]:
        """Those that are connected."""
        return tuple(self._bridges.values())

    def now(self) -> Progress | None:
        """How far the training is, if one goes on."""
        if self.run is None or not self.progress:
            return None
        return Progress.model_validate({"stage": self.run.stage, **self.progress, "run": self.run.id})

    def snapshot(self, load: Load, health: Health) -> SnapshotFrame:
        return SnapshotFrame(
            time=datetime.now(UTC),
            turns=tuple(_so_far(turn) for turn in self._turns.values()),
            engine=load,
            health=health,
            run=TrainingRun.model_validate(self.run) if self.run else None,
            progress=self.now(),
            release=self.release,
            bridges=self.bridges or None,
        )


def _so_far(turn: _Turn) -> TurnSoFar:
    return TurnSoFar(
        turn=turn.begun.turn,
        conversation=turn.begun.conversation,
        messages=turn.begun.messages,
        text={channel: "".join(pieces) for channel, pieces in turn.text.items()},
        n=turn.n,
        recalls=tuple(convert.to_recall(recall) for recall in turn.recalls),
    )
