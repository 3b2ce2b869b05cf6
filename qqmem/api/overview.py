"""Routes for the dashboard's view of the service: how it runs, and by which settings."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, SecretStr

from qqmem import __version__
from qqmem.api import wire_overview as shapes
from qqmem.api.problems import documented
from qqmem.api.state import (
    Admin,
    Condition,
    Reader,
    TheBridges,
    TheCondition,
    TheHistory,
    TheHub,
    TheMemories,
    TheRecollections,
    TheSettings,
    TheSockets,
    TheTally,
)
from qqmem.api.system import health_of
from qqmem.api.tally import Tally
from qqmem.settings import Settings, fields
from qqmem.template import chinese

router = APIRouter(prefix="/api", tags=["system"], responses=documented(401, 403, 429))

_MIB = 2**20
_SECRETS = ("token", "server.tokens")


@router.get("/system", response_model_exclude_none=True)
async def get_system(
    _: Reader,
    settings: TheSettings,
    condition: TheCondition,
    tally: TheTally,
    hub: TheHub,
    bridges: TheBridges,
    history: TheHistory,
    memories: TheMemories,
    recollections: TheRecollections,
    sockets: TheSockets,
) -> shapes.System:
    """How the service runs: model, load, speed, what it keeps, and who is connected."""
    await bridges.count()
    stats, size, counts = condition.engine.stats, await history.size(), await memories.store.count()
    left = sum(count for state, count in counts.items() if state != "deleted")
    database, rss = await asyncio.to_thread(lambda: (_database_bytes(settings.data), _rss_bytes()))
    return shapes.System(
        version=__version__,
        python=platform.python_version(),
        pid=os.getpid(),
        rss_bytes=rss,
        started_at=tally.began,
        uptime_s=round(tally.uptime, 1),
        health=health_of(condition, bridges),
        model=await _model(condition),
        release=hub.release,
        trigger=recollections.trigger,
        engine=shapes.EngineLoad(max_batch=settings.engine.max_batch, **_only(shapes.EngineLoad, asdict(stats))),
        kv=shapes.KvCache(bytes=stats.kv_bytes, budget_bytes=settings.engine.kv_cache_mb * _MIB),
        turns=dict(tally.outcomes),
        latency=_latency(tally),
        storage=shapes.Storage(database_bytes=database, memories=left, **asdict(size)),
        sockets=len(sockets),
        bridges=hub.bridges,
        undelivered=bridges.undelivered,
    )


@router.get("/settings")
async def get_settings(_: Admin, settings: TheSettings) -> shapes.SettingsInForce:
    """The settings by which the service runs, without secrets."""
    return shapes.SettingsInForce(settings=tuple(_settings(settings, await asyncio.to_thread(chinese))))


def _settings(settings: Settings, words: Mapping[str, str]) -> list[shapes.Setting]:
    """words: what they do, in Chinese."""
    found = []
    for name, field in fields().items():
        untouched = field.get_default(call_default_factory=True, validated_data=None)
        value, default = _shown(_at(settings, name)), _shown(untouched)
        found.append(
            shapes.Setting(
                name=name,
                value=value,
                default=default,
                is_default=value == default,
                secret=name in _SECRETS,
                env=f"QQMEM_{name.replace('.', '__').upper()}",
                description=field.description or "",
                description_zh=words[name],
            )
        )
    return found


def _at(settings: Settings, name: str) -> Any:
    found: Any = settings
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _shown(value: Any) -> Any:
    """As JSON, and nothing of a secret but that there is one."""
    match value:
        case SecretStr():
            return "***"
        case Path():
            return str(value)
        case BaseModel():
            kept = {name: getattr(value, name) for name in type(value).model_fields}
            return {name: _shown(each) for name, each in kept.items() if not isinstance(each, SecretStr)}
        case list() | tuple():
            return [_shown(each) for each in value]
        case Mapping():
            return {str(key): _shown(each) for key, each in value.items()}
    return value


async def _model(condition: Condition) -> shapes.ModelSeen:
    name, engine = condition.model, condition.engine
    if engine.state != "ready":
        return shapes.ModelSeen(name=name)
    model = await engine.ready()
    return shapes.ModelSeen(
        name=name,
        max_context=model.max_context,
        hidden_size=model.hidden_size,
        thinks=model.tokenizer.thinks,
        recalls=model.tokenizer.recall is not None,
        **asdict(model.traits),
    )


def _latency(tally: Tally) -> shapes.Latency | None:
    pace = tally.pace
    if pace is None:
        return None
    first_token, total = (shapes.Percentiles(p50=p50, p95=p95) for p50, p95 in (pace.first_token, pace.total))
    return shapes.Latency(count=pace.count, first_token=first_token, total=total, tokens_s=round(pace.tokens_s, 1))


def _only(shape: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in shape.model_fields}


def _database_bytes(folder: Path) -> int:
    """With what is not yet merged into it."""
    return sum(each.stat().st_size for each in folder.glob("qqmem.db*"))


def _rss_bytes() -> int | None:
    """Memory of this process; None where there is no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
