"""One training run: export → stage1 → stage2 → gate → publish → swap → mark, while the bot goes on answering.

Until a release is published and the engine has taken it, nothing that serves has changed; a crash at any point leaves
the release before it in force, and another run goes on with what is whole of the broken one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from qqmem import run_folders
from qqmem.errors import Conflict, QqmemError, TrainingError
from qqmem.export import Exporter
from qqmem.history import History
from qqmem.journal import Journal, Told
from qqmem.leftover import Leftover
from qqmem.lessons import read_origin, unchanged
from qqmem.memory.memories import Memories
from qqmem.run_parts import Base, Command, Hooks, Report, Voice
from qqmem.runs import Run, Runs
from qqmem.settings_train import Train
from qqmem.train.releases import Manifest, Releases
from qqmem.trainer import Trainer, accelerate, kill_left

log = logging.getLogger(__name__)

_LEAST_FREE = 512 * 2**20
_FULL = "The disk is nearly full: training needs half a GiB and more; make room and train again."
_BUG = "The training has met a bug; the log of the service says more."
_ENDED = "It was stopped."


@dataclass(frozen=True, slots=True)
class Status:
    """run: the newest, if there was any. progress: the last line of the one that runs."""

    is_running: bool
    run: Run | None
    progress: Mapping[str, Any]
    release: str | None


class Learn:
    """Trains, one run at a time. `async with` clears up after a crash; leaving stops a run, which may go on later.

    folder: of runs, and of what is kept between them. tell: told of each change of a run, and of its progress.
    free: bytes of disk that are left there. poll: seconds between two looks at a trainer.
    """

    def __init__(
        self,
        runs: Runs,
        memories: Memories,
        history: History,
        releases: Releases,
        folder: Path,
        voice: Voice,
        settings: Train,
        hooks: Hooks,
        *,
        command: Command | None = None,
        tell: Told = lambda run, progress: None,
        free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        poll: float = 0.25,
    ) -> None:
        self.runs = runs
        self.releases = releases
        self._memories = memories
        self._history = history
        self.folder = folder
        self._runs_folder = folder / "runs"
        self._settings = settings
        self._hooks = hooks
        self._exporter = Exporter(memories, history, hooks, voice, settings, folder)
        self._command = command or accelerate(settings.launch)
        self._told = tell
        self._free = free
        self._poll = poll
        self._task: asyncio.Task[None] | None = None
        self._journal: Journal | None = None
        self._stopping = False
        # Why neither a run nor a rollback can begin now, if so.
        self._busy = ""
        self._left = Leftover(runs, memories, self._runs_folder)
        self._tidying: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        for run in await self.runs.page(100, state="running"):
            await self._recover(run)
        await self.tidy()
        self._tidying = asyncio.create_task(self._left.watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await self.cancel()
        self._tidying.cancel()
        await asyncio.wait([self._tidying])

    # ---- what may be asked ---------------------------------------------------------------------------------------

    async def trigger(self, actor: str) -> Run:
        """Begin a run. Raises Conflict: one is running, or there is nothing to train on."""
        self._take("A training run is going on already; wait until it has ended.")
        try:
            if not (await self._memories.store.count())["searchable"]:
                raise Conflict("Nothing is remembered yet that could be trained; talk with the bot first.")
            run = await self.runs.begin(actor, uuid.uuid4().hex)
            self._journal = Journal(self.runs, run, self._told)
            self._task = asyncio.create_task(self._whole(self._journal))
            return run
        except BaseException:
            self._busy = ""
            raise

    async def cancel(self) -> bool:
        """Stop the run that is going on. Returns whether there was one."""
        if self._task is None or self._task.done():
            return False
        self._task.cancel()
        await asyncio.wait([self._task])
        return True

    async def wait(self) -> None:
        """Wait for the end of the run that is going on."""
        if self._task:
            await asyncio.wait([self._task])

    async def rollback(self, name: str | None) -> str | None:
        """Put another release in force, the starter too; None is the untrained model.

        Raises Conflict, NotFound, ReleaseError.
        """
        self._take("A training run is going on; a release cannot be changed now.")
        try:
            decodable: Sequence[int] = ()
            if name is not None:
                decodable = (await asyncio.to_thread(self.releases.read, name)).decodable
            await _to_the_end(self._swap(name))
            await self._memories.store.set_decodable(decodable, name or "")
            return name
        finally:
            self._busy = ""

    async def status(self) -> Status:
        release = None
        with suppress(QqmemError):
            release = await asyncio.to_thread(self.releases.current)
        running = self._task is not None and not self._task.done()
        progress = self._journal.progress if running and self._journal else {}
        return Status(running, await self.runs.newest(), progress, release)

    async def tidy(self) -> None:
        """Delete the files of runs that nobody will go on with: of a memory that was forgotten, above all."""
        await self._left.tidy()

    # ---- a run ---------------------------------------------------------------------------------------------------

    async def _whole(self, journal: Journal) -> None:
        """A run, to whatever end; it is stored, and told."""
        run = journal.run
        log.info("training run %d begins", run.id)
        try:
            await self._train(journal)
        except asyncio.CancelledError:
            if (await self.runs.find(run.id)).state == "running":
                await journal.end("interrupted" if self._stopping else "cancelled", _ENDED)
            raise
        except QqmemError as error:
            await journal.end("failed", str(error))
        except TimeoutError:
            await journal.end("failed", f"It took longer than train.time_limit, {self._settings.time_limit:.0f} s.")
        except OSError as error:
            log.exception("training run %d", run.id)
            await journal.end("failed", _FULL if error.errno == errno.ENOSPC else _BUG)
        except Exception:
            log.exception("training run %d", run.id)
            await journal.end("failed", _BUG)
        finally:
            self._busy = ""
            await self.tidy()

    async def _train(self, journal: Journal) -> None:
        folder = self._runs_folder / str(journal.run.id)
        async with asyncio.timeout(self._settings.time_limit):
            await journal.at("export")
            base = await self._hooks.ready()
            await self._prepare(journal, base, folder)
            async with self._room():
                for stage in run_folders.STAGES:
                    await self._stage(journal, stage, folder)
                if self._settings.compare:
                    plain = await asyncio.to_thread(run_folders.compared, folder)
                    await self._trained(journal, "stage1", plain)
                await journal.at("gate")
                report = await self._hooks.gate(folder)
        await journal.count(gate=dict(report.metrics))
        details = await asyncio.to_thread(run_folders.write_report, folder, report)
        if not report.passed:
            await journal.end("refused", report.reason)
            return
        await _to_the_end(self._publish(journal, base, folder, replace(report, details=details)))

    async def _prepare(self, journal: Journal, base: Base, folder: Path) -> None:
        """The files of a run: made, or those of an interrupted one that was about the same."""
        content = self._exporter.content(journal.run.id, base)
        async with self._left.changing:
            await asyncio.to_thread(run_folders.make_room, self._runs_folder)
            if await asyncio.to_thread(self._free, self._runs_folder) < _LEAST_FREE:
                raise TrainingError(_FULL)
            if old := await self._left.unfinished():
                before = self._runs_folder / str(old.id)
                if await asyncio.to_thread(run_folders.is_same, before, content):
                    log.info("training run %d goes on with run %d", journal.run.id, old.id)
                    await asyncio.to_thread(run_folders.adopt, before, folder, content)
                    return
        await journal.count(export=await self._exporter.export(content, base, folder, journal.hear_export))

    @asynccontextmanager
    async def _room(self) -> AsyncGenerator[None]:
        """Meanwhile the model makes room, if it has to."""
        if self._settings.gpu == "share":
            yield
            return
        try:
            await self._hooks.pause()
            yield
        finally:
            await _to_the_end(self._hooks.resume())

    async def _stage(self, journal: Journal, stage: Literal["stage1", "stage2"], folder: Path) -> None:
        await journal.at(stage)
        await self._trained(journal, stage, folder)
        metrics = await asyncio.to_thread(run_folders.read_json, folder / stage / "metrics.json")
        await journal.count(**{stage: metrics})

    async def _trained(self, journal: Journal, stage: str, folder: Path) -> None:
        """Have a stage run to its end, if it has not. Raises TrainingError."""
        if not await asyncio.to_thread(run_folders.is_done, folder, stage):
            trainer = Trainer(
                self._command(stage, folder),
                folder,
                journal.run.mark,
                journal.hear,
                lambda pid, born: journal.note(pid=pid, born=born),
                self._settings.hang_limit,
                poll=self._poll,
            )
            await trainer.run()
        if not await asyncio.to_thread(run_folders.is_done, folder, stage):
            raise TrainingError(
                f"The trainer of {stage} ended without a result; log.txt in the folder of the run says why."
            )

    async def _publish(self, journal: Journal, base: Base, folder: Path, report: Report) -> None:
        await journal.at("publish")
        origin = await asyncio.to_thread(read_origin, folder)
        same = await unchanged(self._memories.store, origin)
        decodable = tuple(id for id in report.decodable if id in same)
        manifest = Manifest(
            release="",
            base={"name": base.name, "sha256": base.sha256},
            spaces={"value": base.space},
            trigger=report.trigger,
            margin=report.margin,
            lanes=report.lanes,
            decodable=decodable,
            memories=len(origin),
            metrics=report.metrics,
            created_at=datetime.now(UTC).isoformat(),
            seed=self._settings.seed,
        )
        last, made = await self.runs.last_release(), (folder / "stage2", manifest, report.details)
        page = folder / "report.html"
        name = await asyncio.to_thread(self.releases.publish, *made, page=page, newer_than=last)
        await journal.note(release=name)
        await journal.at("swap")
        await self._swap(name)
        await journal.at("mark")
        await self._memories.store.set_decodable(decodable, name)
        await asyncio.to_thread(self.releases.prune, self._settings.keep)
        await journal.end("done")

    async def _swap(self, name: str | None) -> None:
        """Have the engine take a release, then put it in force; the one before serves on if either fails."""
        before = await asyncio.to_thread(self._serving)
        await self._hooks.swap(await asyncio.to_thread(self.releases.path, name) if name else None)
        try:
            await asyncio.to_thread(self.releases.point, name)
        except BaseException:
            await self._hooks.swap(before)
            raise

    def _serving(self) -> Path | None:
        with suppress(QqmemError):
            if current := self.releases.current():
                return self.releases.path(current)
        return None

    # ---- what becomes of it --------------------------------------------------------------------------------------

    async def _recover(self, run: Run) -> None:
        """End a run that was found running: a crash ended the program, and perhaps not the trainers."""
        if await asyncio.to_thread(kill_left, run.pid, run.born, run.mark):
            log.warning("the trainers of run %d were still running, and were killed", run.id)
        serving = await asyncio.to_thread(self._serving)
        journal = Journal(self.runs, run, self._told)
        if run.release and serving == self.releases.folder / run.release:
            manifest = await asyncio.to_thread(self.releases.read, run.release)
            await self._memories.store.set_decodable(manifest.decodable, run.release)
            await journal.end("done")
        else:
            await journal.end("interrupted", _ENDED)

    def _take(self, busy: str) -> None:
        if self._busy:
            raise Conflict(self._busy)
        self._busy = busy


async def _to_the_end(work: Awaitable[None]) -> None:
    """Do it whole, even if the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()):
            log.error("stopped, and failed besides", exc_info=error)
        raise
