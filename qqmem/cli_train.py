"""`qqmem train …`: the training of the running service, over its HTTP routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.progress import BarColumn, Progress, TextColumn

from qqmem.client import AsJson, Config, Refused, Token, Url, answer_of, connected, err, granted, out, print_json
from qqmem.errors import ModelError
from qqmem.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="Train a running service's model on what it remembers.")

_ROUTE = "/api/training"
_PAUSE = 1.0
_ORDER = ("export", "practice", "stage1", "stage2", "gate", "publish", "swap", "mark")

Wait = Annotated[bool, typer.Option("--wait", "-w", help="Stay until it has ended; leaving does not stop it.")]


@app.command()
def run(
    wait: Wait = False, as_json: AsJson = False, config: Config = None, url: Url = None, token: Token = None
) -> None:
    """Begin a run. With --wait, exit code 1 if it does not come to serve."""
    with connected(config, url, token) as client:
        begun = answer_of(client.post(f"{_ROUTE}/trigger"))["run"]
        if not wait:
            print_json(begun) if as_json else out.print(f"Run {begun['id']} has begun; see: qqmem train status")
            return
        ended = _follow(client, begun["id"])
    print_json(ended) if as_json else _show_run(ended)
    raise typer.Exit(int(ended["state"] != "done"))


@app.command()
def status(as_json: AsJson = False, config: Config = None, url: Url = None, token: Token = None) -> None:
    """Whether a run is going on, how the last one ended, and which release serves."""
    with connected(config, url, token) as client:
        found = answer_of(client.get(f"{_ROUTE}/status"))
    if as_json:
        print_json(found)
        return
    out.print(f"In force: {_named(found.get('release'))}")
    out.print(f"Schedule: {found['next_run'] if 'next_run' in found else 'off (train.enabled)'}")
    if "run" in found:
        _show_run(found["run"], found["progress"])
        if "gate" in found["run"]["metrics"]:
            page = client.base_url.join(_page_of(found["run"]["id"]))
            out.print(f"  Report: {page}", markup=False, soft_wrap=True)
    else:
        out.print("No run yet; begin one with: qqmem train run")


@app.command()
def report(
    id: Annotated[int | None, typer.Argument(metavar="[RUN]", help="Default the newest that has one.")] = None,
    html: Annotated[Path | None, typer.Option(help="Save it as a page with plots, in this file.")] = None,
    as_json: AsJson = False,
    config: Config = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """What the gate has measured of a run: before the training, and after it."""
    with connected(config, url, token) as client:
        id = id or _newest_measured(client)
        if html:
            page = granted(client.get(_page_of(id))).text
            _write(html, page)
            out.print(f"Saved: {html}", markup=False, soft_wrap=True)
            return
        found = answer_of(client.get(f"{_ROUTE}/runs/{id}/report"))
    print_json(found) if as_json else _show_report(id, found)


@app.command()
def rollback(
    name: Annotated[
        str | None, typer.Argument(help="A release, `starter`, or `base`; default the one before the present one.")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Go back to an earlier release, to the starter, or to the untrained model."""
    with connected(config, url, token) as client:
        done = answer_of(client.post(f"{_ROUTE}/rollback", json={"release": name}))
    print_json(done) if as_json else out.print(f"In force: {_named(done.get('release'))}")


@app.command()
def starter(
    folder: Annotated[Path, typer.Option(help="Where the starter is written.")],
    run: Annotated[Path, typer.Option(help="What it is made of; a broken-off run there is gone on with.")],
    facts: Annotated[int, typer.Option(min=1, help="How many facts are made up.")] = 700,
    config: Config = None,
) -> None:
    """Train the starter of the model of the settings: from people who do not exist, without a service."""
    from qqmem.engine import catalog  # the model and the trainer, which no other command here needs
    from qqmem.server import model_loader
    from qqmem.starter_run import make

    settings = load_settings(config, {})
    model = catalog.resolve(settings.model)
    if model is None:
        raise ModelError(f"The model {settings.model} is not here yet; qqmem model pull {settings.model} fetches it.")
    with _bar() as bar:
        task = bar.add_task("", total=None, note="")

        def tell(stage: str, progress: Mapping[str, Any]) -> None:
            bar.update(
                task,
                description=stage,
                completed=progress.get("step", 0),
                total=progress.get("steps"),
                note=_note(progress),
            )

        report = asyncio.run(make(settings, model_loader(settings, model), model.absolute(), run, folder, facts, tell))
    for name, figure in report.metrics.items():
        if isinstance(figure, int | float):
            out.print(f"  {name}: {figure:.3f}", markup=False)
    if not report.passed:
        err.print(report.reason, markup=False)
        raise typer.Exit(1)


def _bar() -> Progress:
    columns = TextColumn("{task.description:8}"), BarColumn(), TextColumn("{task.fields[note]}")
    return Progress(*columns, console=err)


def _follow(client: httpx.Client, id: int) -> Any:
    """Show a bar until the run has ended."""
    with _bar() as bar:
        task = bar.add_task("", total=None, note="")
        while True:
            found = answer_of(client.get(f"{_ROUTE}/runs/{id}"))
            if found["state"] != "running":
                return found
            progress = answer_of(client.get(f"{_ROUTE}/status"))["progress"]
            stage = progress.get("stage", found["stage"])
            done = progress.get("step", 0), progress.get("steps")
            bar.update(task, description=stage, completed=done[0], total=done[1], note=_note(progress))
            time.sleep(_PAUSE)


def _note(progress: Mapping[str, Any]) -> str:
    """The stage of all stages, loss and time left, as far as they are known."""
    stage = progress.get("stage")
    notes = [f"{_ORDER.index(stage) + 1}/{len(_ORDER)}"] if stage in _ORDER else []
    loss = progress.get("loss")
    if isinstance(loss, dict) and "total" in loss:
        notes.append(f"loss {loss['total']:.3f}")
    if isinstance(left := progress.get("left_s"), int | float):
        notes.append(f"{int(left) // 60}:{int(left) % 60:02} left")
    return "  ".join(notes)


def _page_of(id: int) -> str:
    return f"{_ROUTE}/runs/{id}/report.html"


def _newest_measured(client: httpx.Client) -> int:
    """Raises Refused: none has a report."""
    runs = answer_of(client.get(f"{_ROUTE}/runs", params={"limit": 200}))["runs"]
    for each in runs:
        if "gate" in each["metrics"]:
            return int(each["id"])
    raise Refused("No run has been measured yet; begin one with: qqmem train run")


def _write(file: Path, text: str) -> None:
    """Raises Refused."""
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise Refused(f"{file} cannot be written: {error.strerror}; name another file.") from error


def _show_report(id: int, report: Mapping[str, Any]) -> None:
    out.print(f"Run {id}: {'passed' if report['passed'] else report['reason']}", markup=False)
    for name, after in report["after"].items():
        if isinstance(after, int | float):
            before = report["before"].get(name)
            was = f"{before:.3f}" if isinstance(before, int | float) else "-"
            out.print(f"  {name}: {was} -> {after:.3f}", markup=False)
    if "ids" in report:
        out.print(f"  memories written exactly: {len(report['decodable'])} of {len(report['ids'])}", markup=False)


def _named(release: str | None) -> str:
    if release == "starter":
        return "the starter"
    return f"release {release}" if release else "the untrained model"


def _show_run(run: Mapping[str, Any], progress: Mapping[str, Any] | None = None) -> None:
    release = f", release {run['release']}" if run["release"] else ""
    out.print(f"Run {run['id']}: {run['state']} ({run['stage']}){release}")
    if progress and "steps" in progress:
        out.print(f"  step {progress['step']} of {progress['steps']}  {_note(progress)}")
    if run["error"]:
        out.print(f"  {run['error']}", markup=False)
    for name, figure in run["metrics"].get("gate", {}).items():
        if isinstance(figure, int | float):
            out.print(f"  {name}: {figure:.3f}", markup=False)
