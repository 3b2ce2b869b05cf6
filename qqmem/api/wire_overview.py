"""The shapes of /api/system and /api/settings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ConfigDict

from qqmem.api.wire import Out, example
from qqmem.api.wire_bridge import BridgeSeen
from qqmem.api.wire_system import Health


class ModelSeen(Out):
    """The model; all but its name is absent while it is not there. thinks: before it writes. recalls: it can."""

    name: str
    device: str | None = None
    dtype: str | None = None
    int8: bool | None = None
    threads: int | None = None
    parameters: int | None = None
    max_context: int | None = None
    hidden_size: int | None = None
    thinks: bool | None = None
    recalls: bool | None = None


class EngineLoad(Out):
    """Replies that are being written and in line, and what was counted since the service began."""

    running: int
    waiting: int
    max_batch: int
    steps: int
    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    finished: int
    cancelled: int
    failed: int


class KvCache(Out):
    """What is kept of conversations at rest, so that their prompts need not be read again."""

    bytes: int
    budget_bytes: int


class Percentiles(Out):
    """Seconds."""

    p50: float
    p95: float


class Latency(Out):
    """Of the last turns that came to their end. tokens_s: of one reply, while it is written."""

    count: int
    first_token: Percentiles
    total: Percentiles
    tokens_s: float


class Storage(Out):
    """What the service keeps."""

    database_bytes: int
    conversations: int
    messages: int
    turns: int
    memories: int


class System(Out):
    """How the service runs.

    release: which serves, absent for the untrained model. trigger: who decides that a memory is needed. turns: by
    outcome, since the service began. latency: absent as long as no turn has ended. undelivered: replies of which no
    bridge has told what became of them.
    """

    model_config = ConfigDict(
        json_schema_extra=example(
            version="0.1.0",
            python="3.11.7",
            pid=4242,
            rss_bytes=1_700_000_000,
            started_at="2026-11-22T09:00:00Z",
            uptime_s=7200.5,
            health={"status": "ok", "model": "qwen2.5-coder-0.5b", "version": "0.1.0"},
            model={
                "name": "qwen2.5-coder-0.5b",
                "device": "cpu",
                "dtype": "bfloat16",
                "int8": True,
                "threads": 2,
                "parameters": 494_032_768,
                "max_context": 16384,
                "hidden_size": 896,
                "thinks": False,
                "recalls": True,
            },
            release="0002",
            trigger="both",
            engine={
                "running": 1,
                "waiting": 0,
                "max_batch": 4,
                "steps": 120,
                "prompt_tokens": 9000,
                "cached_tokens": 7000,
                "new_tokens": 800,
                "finished": 12,
                "cancelled": 1,
                "failed": 0,
            },
            kv={"bytes": 12_000_000, "budget_bytes": 1_073_741_824},
            turns={"replied": 12, "superseded": 1},
            latency={
                "count": 12,
                "first_token": {"p50": 0.2, "p95": 0.8},
                "total": {"p50": 2.1, "p95": 6.0},
                "tokens_s": 21.0,
            },
            storage={
                "database_bytes": 4_000_000,
                "conversations": 12,
                "messages": 5120,
                "turns": 900,
                "memories": 125,
            },
            sockets=2,
            bridges=[
                {
                    "bridge": "home",
                    "self_id": "10000",
                    "status": {"napcat": True, "online": True, "queued": 0, "counters": {"sent": 41}},
                }
            ],
            undelivered=0,
        )
    )
    version: str
    python: str
    pid: int
    rss_bytes: int | None = None
    started_at: datetime
    uptime_s: float
    health: Health
    model: ModelSeen
    release: str | None = None
    trigger: str
    engine: EngineLoad
    kv: KvCache
    turns: dict[str, int]
    latency: Latency | None = None
    storage: Storage
    sockets: int
    bridges: tuple[BridgeSeen, ...]
    undelivered: int


class Setting(Out):
    """One setting. value: *** if it is a secret that is set. env: the variable that sets it.

    description, description_zh: what it does, in English and in Chinese.
    """

    name: str
    value: Any
    default: Any
    is_default: bool
    secret: bool
    env: str
    description: str
    description_zh: str


class SettingsInForce(Out):
    """All settings, in the order of docs/settings.md."""

    model_config = ConfigDict(
        json_schema_extra=example(
            settings=[
                {
                    "name": "engine.max_batch",
                    "value": 8,
                    "default": 4,
                    "is_default": False,
                    "secret": False,
                    "env": "QQMEM_ENGINE__MAX_BATCH",
                    "description": "Replies written at the same time.",
                    "description_zh": "同时写的回复数。",
                }
            ]
        )
    )
    settings: tuple[Setting, ...]
