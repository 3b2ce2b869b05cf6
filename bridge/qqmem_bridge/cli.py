"""The command `qqmem-bridge`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from qqmem_bridge import __version__
from qqmem_bridge.bridge import Bridge
from qqmem_bridge.clock import SystemClock
from qqmem_bridge.doctor import Finding, examine
from qqmem_bridge.errors import BridgeError, SettingsError
from qqmem_bridge.napcat import reach
from qqmem_bridge.settings import Settings, load_settings, settings_file

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file; default bridge.yaml, if it is there.")
]
Service = Annotated[str | None, typer.Option(help="Address of the qqmem service, ws://…/ws/bridge.")]
Napcat = Annotated[str | None, typer.Option(help="Address of NapCat's WebSocket server.")]
Transport = Annotated[
    str | None, typer.Option(help="onebot, or ncatbot: a package of its own, not for commercial use.")
]
_MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "wrong": "[red]✗[/]"}


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Say which version this is.")] = False) -> None:
    """Carry messages between QQ and a qqmem service."""
    if version:
        out.print(f"qqmem-bridge {__version__}")
        raise typer.Exit


@app.command()
def run(
    config: Config = None,
    service: Service = None,
    napcat: Napcat = None,
    transport: Transport = None,
    data: Annotated[Path | None, typer.Option(help="Folder of what the bridge keeps.")] = None,
    allow_all: Annotated[bool, typer.Option("--allow-all", help="Everybody may talk to the bot; for trials.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run until Ctrl-C."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in ("websockets", "httpx", "httpcore"):  # frames, and addresses of pictures, are nothing for a log
        logging.getLogger(name).setLevel(logging.WARNING)
    settings = load_settings(config, _flags(service, napcat, transport, data, allow_all))
    if not (settings.allow.everybody or settings.allow.groups or settings.allow.users or settings.allow.admins):
        raise SettingsError(
            "Nobody may talk to the bot; put groups and users into allow of bridge.yaml, or --allow-all."
        )
    try:
        asyncio.run(_run(settings))
    except KeyboardInterrupt:
        return
    except sqlite3.Error as error:
        raise SettingsError(f"{settings.data / 'bridge.db'} cannot be used ({error}); set data to another.") from error


@app.command()
def doctor(config: Config = None, service: Service = None, napcat: Napcat = None, transport: Transport = None) -> None:
    """Check settings, NapCat and the service, and say what is wrong. Exit code 1 if something is."""
    logging.basicConfig(level=logging.ERROR)  # what it finds is printed
    settings = load_settings(config, _flags(service, napcat, transport))
    findings = asyncio.run(_examined(settings))
    raise typer.Exit(1 if any(finding.state == "wrong" for finding in findings) else 0)


@app.command()
def init(path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("bridge.yaml")) -> None:
    """Write a settings file with comments."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(settings_file())
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}.") from error
    out.print(f"Wrote {path}")


def main() -> None:
    """Run a command; what a person can put right is one sentence and exit code 2."""
    try:
        app()
    except BridgeError as error:
        err.print(str(error), style="red", markup=False)
        raise SystemExit(2) from None


async def _run(settings: Settings) -> None:
    clock, chance = SystemClock(), random.Random()
    bridge = Bridge(settings, reach(settings, clock, chance=chance), clock, chance)
    this = asyncio.current_task()
    assert this is not None
    for kind in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C cancels this task without it
            asyncio.get_running_loop().add_signal_handler(kind, this.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await bridge.run()


async def _examined(settings: Settings) -> list[Finding]:
    findings = []
    async for finding in examine(settings, SystemClock()):
        out.print(_MARKS[finding.state], end=" ")
        out.print(finding.text, markup=False)
        findings.append(finding)
    return findings


def _flags(
    service: str | None, napcat: str | None, transport: str | None, data: Path | None = None, allow_all: bool = False
) -> Mapping[str, Any]:
    flags: dict[str, Any] = {}
    if service:
        flags["service"] = service
    if napcat:
        flags["napcat"] = {"url": napcat}
    if transport:
        flags["transport"] = transport
    if data:
        flags["data"] = data
    if allow_all:
        flags["allow"] = {"everybody": True}
    return flags
