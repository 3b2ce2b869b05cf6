"""Routes for those who run the service: how it is, and what it has counted."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from qqmem import __version__
from qqmem.api.bridges import Bridges
from qqmem.api.problems import documented
from qqmem.api.state import Condition, Reader, TheBridges, TheCondition, TheMetrics
from qqmem.api.wire import to_json
from qqmem.api.wire_system import Health

router = APIRouter(tags=["system"])

_METRICS = """# HELP qqmem_turns_total Turns ended.
# TYPE qqmem_turns_total counter
qqmem_turns_total{outcome="replied"} 12.0
"""


_RED: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "It does not serve; reason says why."}}


@router.get("/health", response_model=Health, responses=_RED)
@router.get("/api/health", name="api_health", response_model=Health, responses=_RED)
async def health(condition: TheCondition, bridges: TheBridges) -> Response:
    """200 when the model serves, 503 and the reason otherwise. Needs no token."""
    await bridges.count()
    found = health_of(condition, bridges)
    return Response(to_json(found), 200 if found.status == "ok" else 503, media_type="application/json")


def health_of(condition: Condition, bridges: Bridges) -> Health:
    """As the routes tell it."""
    told = Health(status="ok", model=condition.model, version=__version__, bridges=bridges.health)
    if condition.stopping.is_set() or condition.engine.state == "stopped":
        return told.model_copy(update={"status": "stopping", "reason": "The service is stopping."})
    if condition.engine.state == "loading":
        return told.model_copy(update={"status": "loading", "reason": "The model is being loaded; messages wait."})
    if condition.engine.state == "failed":
        return told.model_copy(update={"status": "failed", "reason": condition.failure or "The model has failed."})
    return told


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {"example": _METRICS}}},
        **documented(401, 403, 429),
    },
)
async def metrics(_: Reader, metrics: TheMetrics, bridges: TheBridges) -> Response:
    """Counters and histograms for Prometheus."""
    await bridges.count()
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
