"""`qqmem doctor`: what a working service needs, each thing looked at by itself, each fault with its way out."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from qqmem.db import Database
from qqmem.engine import catalog
from qqmem.errors import QqmemError, SettingsError
from qqmem.history import History
from qqmem.server import listen
from qqmem.settings import Settings

Verdict = Literal["ok", "note", "fault"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one thing came to."""

    name: str
    verdict: Verdict
    text: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, one after the other."""
    looks: tuple[tuple[str, Callable[[Settings], tuple[Verdict, str]]], ...] = (
        ("Python", _python),
        ("torch", _torch),
        ("device", _device),
        ("memory", _memory),
        ("model", _model),
        ("data", _data),
        ("database", _database),
        ("port", _port),
        ("access", _access),
    )
    for name, look in looks:
        try:
            yield Finding(name, *look(settings))
        except QqmemError as error:
            yield Finding(name, "fault", str(error))


def _python(settings: Settings) -> tuple[Verdict, str]:
    return "ok", f"{sys.version.split()[0]} in {sys.prefix}"


def _torch(settings: Settings) -> tuple[Verdict, str]:
    return "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))


def _device(settings: Settings) -> tuple[Verdict, str]:
    import torch  # takes seconds to import; the other commands should not wait for it

    wanted = settings.engine.device
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return "ok", f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if wanted.startswith("cuda"):
        return "fault", (
            f"engine.device is {wanted}, but this torch sees no CUDA GPU; install a CUDA build of torch (README.md), "
            "or set engine.device: auto."
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    speed = torch.backends.cpu.get_cpu_capability()
    return "note", f"no CUDA GPU; the CPU writes, {cores} cores, {speed}: right for models below 1 B parameters."


def _memory(settings: Settings) -> tuple[Verdict, str]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    verdict: Verdict = "ok" if total > 4e9 else "note"
    return (
        verdict,
        f"{total / 1e9:.0f} GB; the embedded model takes 2.5 GB, KV caches {settings.engine.kv_cache_mb} MiB more.",
    )


def _model(settings: Settings) -> tuple[Verdict, str]:
    folder = catalog.resolve(settings.model)
    if folder is None:
        return "fault", f"{settings.model} is not on this machine; fetch it with: qqmem model pull {settings.model}"
    return "ok", f"{settings.model} in {folder}"


def _data(settings: Settings) -> tuple[Verdict, str]:
    folder = settings.data.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return "fault", f"{existing} cannot be written to; choose another folder with --data."
    free = shutil.disk_usage(existing).free
    if free < 1e9:
        return "fault", f"{folder} has {free / 1e6:.0f} MB left on its disk; make room."
    return "ok", f"{folder}, {free / 1e9:.0f} GB free"


def _database(settings: Settings) -> tuple[Verdict, str]:
    if not (settings.data / "qqmem.db").exists():
        return "ok", "none yet; the first start makes it"

    async def count() -> int:
        async with Database.open(settings.data) as db:
            return len(await History(db).conversations(limit=1000))

    return "ok", f"opens, {asyncio.run(count())} conversations"


def _port(settings: Settings) -> tuple[Verdict, str]:
    host, port = settings.server.host, settings.server.port
    try:
        listen(host, port).close()
    except SettingsError as error:
        return "note", f"{error} (If it is qqmem itself that runs there, all is well.)"
    return "ok", f"{host}:{port} is free"


def _access(settings: Settings) -> tuple[Verdict, str]:
    settings.check_access()
    if not settings.tokens:
        return "ok", "no token: only this machine may connect"
    return "ok", "tokens: " + ", ".join(f"{token.name} ({' '.join(token.scopes)})" for token in settings.tokens)
