"""How the service is, as /health tells it."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from qqmem.api.wire import Out, example


class BridgesHealth(Out):
    """connected: bridges. undelivered: replies of which no bridge has told yet what became of them."""

    connected: int
    undelivered: int


class Health(Out):
    """How the service is. reason: one sentence, unless it is ok. bridges: absent as long as none has ever come."""

    model_config = ConfigDict(json_schema_extra=example(status="ok", model="qwen2.5-coder-0.5b", version="0.1.0"))
    status: Literal["ok", "loading", "failed", "stopping"]
    model: str
    version: str
    reason: str | None = None
    bridges: BridgesHealth | None = None
