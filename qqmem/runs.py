"""Runs of the training, and the memory of the schedule: every query, answered with frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from sqlalchemy import select, update

from qqmem.db import Database
from qqmem.errors import NotFound
from qqmem.train_tables import TrainingRunRow, TrainingScheduleRow

State = Literal["running", "done", "refused", "failed", "interrupted", "cancelled"]
"""refused: by the gate, what it trained does not serve. interrupted: the program ended meanwhile; it can go on."""

Stage = Literal["", "export", "stage1", "stage2", "gate", "publish", "swap", "mark"]
STAGES: tuple[Stage, ...] = get_args(Stage)[1:]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the training.

    actor: who began it, `schedule` or `api:<token name>`. stage: what it is at, or was at when it ended.
    error: one sentence, "" if all went well. release: the one that it has published, "" for none.
    mark: what is in the environment of its processes. pid, born: of the first of them.
    """

    id: int
    actor: str
    state: State
    stage: Stage
    started_at: datetime
    ended_at: datetime | None
    error: str
    release: str
    metrics: Mapping[str, Any]
    mark: str
    pid: int | None
    born: str


_NAMES = [field.name for field in fields(Run)]


class Runs:
    """The runs in one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def begin(self, actor: str, mark: str) -> Run:
        row = TrainingRunRow(actor=actor, state="running", started_at=datetime.now(UTC), mark=mark, metrics={})
        async with self._db.write() as session:
            session.add(row)
            await session.flush()
            return _run(row)

    async def note(self, id: int, **values: Any) -> Run:
        """Set some of a run's fields. Raises NotFound."""
        async with self._db.write() as session:
            row = await session.get(TrainingRunRow, id)
            if row is None:
                raise NotFound(f"There is no training run {id}.")
            for name, value in values.items():
                setattr(row, name, value)
            return _run(row)

    async def end(self, id: int, state: State, error: str = "") -> Run:
        ended = None if state == "running" else datetime.now(UTC)
        return await self.note(id, state=state, error=error, ended_at=ended, pid=None, born="")

    async def find(self, id: int) -> Run:
        """Raises NotFound."""
        async with self._db.read() as session:
            row = await session.get(TrainingRunRow, id)
        if row is None:
            raise NotFound(f"There is no training run {id}.")
        return _run(row)

    async def page(self, limit: int, before: int | None = None, *, state: State | None = None) -> list[Run]:
        """The newest of all, or of those before an id; newest first."""
        query = select(TrainingRunRow).order_by(TrainingRunRow.id.desc()).limit(limit)
        if before is not None:
            query = query.where(TrainingRunRow.id < before)
        if state is not None:
            query = query.where(TrainingRunRow.state == state)
        async with self._db.read() as session:
            return [_run(row) for row in await session.scalars(query)]

    async def newest(self) -> Run | None:
        return next(iter(await self.page(1)), None)

    async def last_release(self) -> str:
        """The newest that any run has published, "" for none."""
        query = select(TrainingRunRow.release).where(TrainingRunRow.release != "").order_by(TrainingRunRow.id.desc())
        async with self._db.read() as session:
            return await session.scalar(query.limit(1)) or ""

    # The schedule

    async def anchor(self, now: datetime) -> tuple[datetime, datetime | None]:
        """When the schedule was first seen, which is now if it never was, and when it last tried."""
        async with self._db.read() as session:
            row = await session.get(TrainingScheduleRow, 1)
        if row is None:
            row = TrainingScheduleRow(id=1, anchored_at=now, tried_at=None)
            async with self._db.write() as session:
                await session.merge(row)
        return row.anchored_at, row.tried_at

    async def tried(self, now: datetime) -> None:
        """The schedule begins a run now, or finds that it cannot."""
        async with self._db.write() as session:
            await session.execute(update(TrainingScheduleRow).values(tried_at=now))


def _run(row: TrainingRunRow) -> Run:
    return Run(**{name: getattr(row, name) for name in _NAMES})
