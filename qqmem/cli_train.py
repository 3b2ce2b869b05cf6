"""`qqmem train …`: the training of the running service, over its HTTP routes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import httpx
import typer
from rich.progress import BarColumn, Progress, TextColumn

from qqmem.client import AsJson, Config, Token, Url, answer_of, connected, err, out, print_json

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
    else:
        out.print("No run yet; begin one with: qqmem train run")


@app.command()
def rollback(
    name: Annotated[
        str | None, typer.Argument(help="A release, or `base`; default the one before the present one.")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Go back to an earlier release, or to the untrained model."""
    with connected(config, url, token) as client:
        done = answer_of(client.post(f"{_ROUTE}/rollback", json={"release": name}))
    print_json(done) if as_json else out.print(f"In force: {_named(done.get('release'))}")


def _follow(client: httpx.Client, id: int) -> Any:
    """Show a bar until the run has ended."""
    columns = TextColumn("{task.description:8}"), BarColumn(), TextColumn("{task.fields[note]}")
    with Progress(*columns, console=err) as bar:
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


def _named(release: str | None) -> str:
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
