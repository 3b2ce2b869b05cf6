"""The command line. What is wrong with what a person typed is one sentence and exit code 2; other failures are 1."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from qqmem import __version__, cli_eval, cli_memory, cli_train, template
from qqmem.engine import catalog
from qqmem.errors import QqmemError, SettingsError
from qqmem.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
models = typer.Typer(no_args_is_help=True, help="Fetch and list models.")
app.add_typer(models, name="model")
app.add_typer(cli_memory.app, name="memory")
app.add_typer(cli_train.app, name="train")
app.add_typer(cli_eval.app, name="eval")

err = Console(stderr=True, soft_wrap=True, highlight=False)
out = Console(soft_wrap=True, highlight=False)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file; default qqmem.yaml, if it is there.")
]
Data = Annotated[Path | None, typer.Option(help="Folder of everything the program keeps.")]
Model = Annotated[str | None, typer.Option(help="A name of `qqmem model list`, a hub id, or a local folder.")]
Host = Annotated[str | None, typer.Option(help="Address to bind.")]
Port = Annotated[int | None, typer.Option(help="Port to bind.")]


def main() -> None:
    """Run a command; an error for a person becomes one sentence on stderr."""
    try:
        app()
    except SettingsError as error:
        _leave(error, 2)
    except QqmemError as error:
        _leave(error, 1)


def _leave(error: QqmemError, code: int) -> None:
    err.print(f"qqmem: {error}", style="red", markup=False)
    sys.exit(code)


def _settings(config: Path | None, **flags: Any) -> Settings:
    """Settings with the flags that were given. host and port belong to the server's section."""
    server = {name: flags.pop(name, None) for name in ("host", "port")}
    given = {name: value for name, value in flags.items() if value is not None}
    if server := {name: value for name, value in server.items() if value is not None}:
        given["server"] = server
    return load_settings(config, given)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """qqmem: a QQ chatbot whose model decides by itself when it needs a memory."""
    if version:
        out.print(__version__)
        raise typer.Exit


@app.command()
def serve(config: Config = None, host: Host = None, port: Port = None, data: Data = None, model: Model = None) -> None:
    """Run the service; the model is fetched first if it is not there."""
    from qqmem.server import run  # imports the whole service

    settings = _settings(config, host=host, port=port, data=data, model=model)
    _log_to_stderr()
    folder = _pull(settings.model)
    sys.exit(run(settings, folder))


@app.command()
def chat(
    config: Config = None,
    url: Annotated[str | None, typer.Option(help="The service; default the one of the settings.")] = None,
    token: Annotated[str | None, typer.Option(envvar="QQMEM_TOKEN", help="Bearer token.")] = None,
    conversation: Annotated[str, typer.Option(help="private:<id> or group:<id>.")] = "private:terminal",
    name: Annotated[str, typer.Option(help="Your name.")] = "我",
    think: Annotated[bool, typer.Option(help="Also show what the model thinks.")] = False,
) -> None:
    """Talk to a running service in the terminal."""
    from qqmem.terminal import Terminal

    server = _settings(config).server
    host = f"[{server.host}]" if ":" in server.host else server.host
    Terminal(url or f"ws://{host}:{server.port}/ws/chat", token, conversation, name, think).run()


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("qqmem.yaml"),
    language: Annotated[template.Language, typer.Option(help="Language of the comments.")] = "zh",
) -> None:
    """Write a settings file with every setting, its default and a comment."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template.settings_file(language))
    except FileExistsError as error:
        raise SettingsError(f"{path} is there already; it stays as it is. Name another file to write.") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}.") from error
    out.print(f"Wrote {path}. Edit it, then: qqmem serve")


@app.command()
def doctor(config: Config = None, host: Host = None, port: Port = None, data: Data = None, model: Model = None) -> None:
    """Check everything the service needs, and say what to do. Exit code 1 if something is missing."""
    from qqmem.doctor import examine  # imports the whole service

    settings = _settings(config, host=host, port=port, data=data, model=model)
    out.print("[green]✓[/] settings")
    faults = 0
    marks = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "fault": "[red]✗[/]"}
    for finding in examine(settings):
        faults += finding.verdict == "fault"
        out.print(f"{marks[finding.verdict]} {finding.name}: ", end="")
        out.print(finding.text, markup=False)
    raise typer.Exit(int(faults > 0))


@models.command("list")
def model_list() -> None:
    """List the known models, and whether they are on this machine."""
    for known in catalog.CATALOG:
        folder = catalog.resolve(known.name)
        out.print(
            f"{'[green]✓[/]' if folder else ' '} {known.name}  [dim]{known.licence}, {known.size / 1e9:.1f} GB[/]"
        )
        out.print(f"    {known.summary}")
        if folder:
            out.print(f"    {folder}", style="dim", markup=False)


@models.command("pull")
def model_pull(name: Annotated[str | None, typer.Argument(help="Default: the model of the settings.")] = None) -> None:
    """Fetch a model, or finish fetching it."""
    out.print(str(_pull(name or _settings(None).model)), markup=False)


@app.command()
def bench(config: Config = None, model: Model = None) -> None:
    """Measure how fast this machine writes, reads and is interrupted."""
    settings = _settings(config, model=model)
    asyncio.run(_bench(settings, _pull(settings.model)))


async def _bench(settings: Settings, folder: Path) -> None:
    from qqmem.engine.bench import measure
    from qqmem.engine.worker import Engine
    from qqmem.server import model_loader

    engine = settings.engine
    load = model_loader(settings, folder)
    async with Engine(load, max_batch=engine.max_batch, prefill_chunk=engine.prefill_chunk) as running:
        async for figure in measure(running):
            out.print(f"{figure.name:58} {figure.value:9.1f} {figure.unit}")


@app.command()
def openapi() -> None:
    """Print the service's OpenAPI description."""
    from qqmem.app import openapi as describe

    sys.stdout.write(json.dumps(describe(), ensure_ascii=False, indent=2) + "\n")


def _pull(name: str) -> Path:
    """The model's folder, fetched with a progress bar if it is not there."""
    if folder := catalog.resolve(name):
        return folder
    with _bar() as progress:
        return catalog.pull(name, progress)


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("")
        yield lambda label, done, total: bar.update(task, description=label, completed=done, total=total or None)


def _log_to_stderr() -> None:
    """Logs as lines; coloured for a person, plain for a file."""
    level = os.environ.get("QQMEM_LOG", "INFO").upper()
    if sys.stderr.isatty():
        handler: logging.Handler = RichHandler(console=err, show_path=False, rich_tracebacks=False)
        logging.basicConfig(level=level, format="%(message)s", datefmt="%H:%M:%S", handlers=[handler])
    else:
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "transformers", "alembic", "aiosqlite"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
