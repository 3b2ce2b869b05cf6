"""What /metrics counts, in a registry of its own, so that two services in one process do not meet."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qqmem.chat import Event, TurnEnded
from qqmem.engine.types import Stats

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS")
_GAUGES = {"running": "Replies being written.", "waiting": "Replies in line.", "kv_bytes": "Size of all KV caches."}
_COUNTERS = {
    "steps": "Steps of the model.",
    "prompt_tokens": "Tokens of prompts.",
    "cached_tokens": "Prompt tokens taken from a kept KV cache.",
    "new_tokens": "Tokens written.",
    "finished": "Requests that came to their end.",
    "cancelled": "Requests that were cancelled.",
    "failed": "Requests that failed.",
}


class _EngineCollector(Collector):
    """Reads the worker's counters when asked."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"qqmem_engine_{name}", text, value=getattr(self._stats, name))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"qqmem_engine_{name}", text, value=getattr(self._stats, name))


class Metrics:
    """The counters of one service."""

    def __init__(self, stats: Stats) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(stats))
        self._requests = Counter(
            "qqmem_http_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._turns = Counter("qqmem_turns", "Turns ended.", ["outcome"], registry=self._registry)
        self._first_token = Histogram(
            "qqmem_first_token_seconds",
            "From asking the model to its first token.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._turn = Histogram(
            "qqmem_turn_seconds",
            "From asking the model to the end of its turn.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.sockets = Gauge("qqmem_sockets_open", "WebSockets that are open.", registry=self._registry)
        self.bridges = Gauge("qqmem_bridges_connected", "Bridges that are connected.", registry=self._registry)
        self.undelivered = Gauge(
            "qqmem_deliveries_waiting", "Replies that no bridge has told the outcome of.", registry=self._registry
        )

    def publish(self, event: Event) -> None:
        """Count what happens in the conversations."""
        if not isinstance(event, TurnEnded) or event.turn is None:
            return
        self._turns.labels(event.outcome).inc()
        if event.timing.total:  # the engine has told it: the turn was not stopped
            self._first_token.observe(event.timing.first_token)
            self._turn.observe(event.timing.total)

    def count_request(self, method: str, route: str, status: int) -> None:
        """route: its template. A method that we do not know is counted as OTHER, lest clients make up labels."""
        self._requests.labels(method if method in _METHODS else "OTHER", route, str(status)).inc()

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


class CountRequests:
    """Middleware: counts each HTTP request by its route (the template, not the path) and status."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "(none)")
                metrics: Metrics = scope["state"]["metrics"]
                metrics.count_request(scope["method"], route, message["status"])
            await send(message)

        await self._app(scope, receive, counting if scope["type"] == "http" else send)
