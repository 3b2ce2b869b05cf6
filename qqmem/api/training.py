"""Routes to the training: begin a run, see how it goes, go back to an earlier release."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query
from fastapi.responses import HTMLResponse

from qqmem import run_folders
from qqmem.api import wire_training as shapes
from qqmem.api.problems import documented
from qqmem.api.state import Admin, Reader, TheHistory, TheTraining, Training
from qqmem.errors import QqmemError
from qqmem.train.releases import BASE, STARTER, Releases

router = APIRouter(prefix="/api/training", tags=["training"], responses=documented(401, 403, 404, 409, 422, 429))


Id = Annotated[int, Path(ge=1, lt=2**63, description="The number of a run.", examples=[3])]


_MOST_STEPS = 500
_NOTHING_ELSE = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
"""Of a page that loads nothing and runs nothing."""
_PAGE: dict[str, Any] = {"content": {"text/html": {"example": "<!doctype html>…"}}}

Wanted = Annotated[shapes.Rollback | None, Body(examples=[{"release": "0001"}])]


@router.post("/trigger", response_model_exclude_none=True)
async def trigger_training(caller: Admin, training: TheTraining) -> shapes.Triggered:
    """Begin a run; 409 while one is going on, or if there is nothing to train on."""
    run = await training.learn.trigger(f"api:{caller.name}")
    return shapes.Triggered(run=shapes.TrainingRun.model_validate(run))


@router.post("/cancel")
async def cancel_training(_: Admin, training: TheTraining) -> shapes.Stopped:
    """Stop the run that is going on; nothing of it serves."""
    return shapes.Stopped(cancelled=await training.learn.cancel())


@router.get("/status", response_model_exclude_none=True)
async def get_training_status(_: Reader, training: TheTraining) -> shapes.TrainingStatus:
    """Whether a run is going on, how far it is, and when the next one begins."""
    found = await training.learn.status()
    return shapes.TrainingStatus(
        enabled=training.settings.enabled,
        is_running=found.is_running,
        is_training=found.is_running,
        next_run=await training.schedule.next(),
        release=found.release,
        run=shapes.TrainingRun.model_validate(found.run) if found.run else None,
        progress=dict(found.progress),
    )


@router.get("/debug", response_model_exclude_none=True)
async def debug_training(_: Reader, training: TheTraining) -> shapes.TrainingDebug:
    """The schedule and the settings of the training."""
    is_running, settings = (await training.learn.status()).is_running, training.settings
    rule = f"every {settings.interval} days at {settings.hour:02}:00"
    due = await training.schedule.next()
    return shapes.TrainingDebug(
        is_running=is_running,
        is_training=is_running,
        jobs=(shapes.Job(next_run_time=due, trigger=rule),) if due else (),
        config=settings.model_dump(mode="json", exclude={"sft_path"}),
    )


@router.get("/runs", response_model_exclude_none=True)
async def list_training_runs(
    _: Reader,
    training: TheTraining,
    limit: Annotated[int, Query(ge=1, le=200, description="Most entries of the page.")] = 20,
    before: Annotated[int | None, Query(ge=1, lt=2**63, description="`next` of the page before.")] = None,
) -> shapes.TrainingRunPage:
    """All runs, the newest first."""
    page = await training.learn.runs.page(limit, before)
    runs = tuple(map(shapes.TrainingRun.model_validate, page))
    return shapes.TrainingRunPage(runs=runs, next=page[-1].id if len(page) == limit else None)


@router.get("/runs/{id}", response_model_exclude_none=True)
async def get_training_run(id: Id, _: Reader, training: TheTraining) -> shapes.TrainingRun:
    """One run."""
    return shapes.TrainingRun.model_validate(await training.learn.runs.find(id))


@router.get("/runs/{id}/progress", response_model_exclude_none=True)
async def get_training_progress(id: Id, _: Reader, training: TheTraining) -> shapes.TrainingProgress:
    """How far a run has come step by step, for curves; nothing of one whose files are gone."""
    learn = training.learn
    folder = learn.folder / "runs" / str((await learn.runs.find(id)).id)
    told = await asyncio.to_thread(lambda: list(run_folders.progress(folder)))
    steps = [each for each in told if "step" in each]
    return shapes.TrainingProgress(points=tuple(map(shapes.TrainingStep.model_validate, _thinned(steps))))


def _thinned(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most some hundred of each stage, the last one among them."""
    found = []
    for stage in run_folders.STAGES:
        of_stage = [step for step in steps if step.get("stage") == stage]
        every = -(-len(of_stage) // _MOST_STEPS)
        found += of_stage[::-1][:: max(every, 1)][::-1]
    return found


@router.get("/runs/{id}/report", response_model_exclude_none=True)
async def get_training_report(id: Id, _: Reader, training: TheTraining) -> shapes.TrainingReport:
    """What the gate has measured of a run, and what it has decided; 404 if it has not measured it."""
    return shapes.TrainingReport.model_validate_json(await _report(training, id, "report.json"))


@router.get("/runs/{id}/report.html", response_class=HTMLResponse, responses={200: _PAGE})
async def get_training_report_page(id: Id, _: Reader, training: TheTraining) -> HTMLResponse:
    """The same as a page, with plots."""
    return HTMLResponse(await _report(training, id, "report.html"), headers=_NOTHING_ELSE)


async def _report(training: Training, id: int, name: Literal["report.json", "report.html"]) -> str:
    learn = training.learn
    run = await learn.runs.find(id)
    return await asyncio.to_thread(run_folders.read_report, learn.folder, learn.releases, run, name)


@router.get("/releases", response_model_exclude_none=True)
async def list_releases(_: Reader, training: TheTraining) -> shapes.ReleaseList:
    """What was published and is kept."""
    current = (await training.learn.status()).release
    releases = training.learn.releases
    names = [STARTER] if releases.starter else []
    found = await asyncio.to_thread(lambda: [_release(releases, name, current) for name in [*names, *releases.names()]])
    return shapes.ReleaseList(current=current, releases=tuple(reversed(found)))


def _release(releases: Releases, name: str, current: str | None) -> shapes.Release:
    found = shapes.Release(release=name, is_current=name == current)
    try:
        manifest = releases.read(name)
    except QqmemError as error:
        return found.model_copy(update={"fault": str(error)})
    return found.model_copy(
        update={
            "created_at": manifest.created_at,
            "trigger": manifest.trigger,
            "memories": manifest.memories,
            "decodable": len(manifest.decodable),
            "metrics": dict(manifest.metrics),
        }
    )


@router.post("/rollback", response_model_exclude_none=True)
async def rollback_training(_: Admin, training: TheTraining, body: Wanted = None) -> shapes.RolledBack:
    """Put an earlier release in force, the starter, or the untrained model; 409 while a run is going on."""
    learn, wanted = training.learn, body.release if body else None
    name = await asyncio.to_thread(learn.releases.before) if wanted is None else wanted
    return shapes.RolledBack(release=await learn.rollback(None if name == BASE else name))


@router.post("/save-chat-history")
async def save_chat_history(_: Admin, history: TheHistory) -> shapes.Saved:
    """Nothing to do: whatever is said is stored at once. For older clients."""
    return shapes.Saved(saved_count=len(await history.last_ids()))
