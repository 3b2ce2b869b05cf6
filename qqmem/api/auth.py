"""Who may do what: bearer tokens with scopes, the origin of web pages, and how often one may ask."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from qqmem.errors import Forbidden, RateLimited, Unauthorized
from qqmem.settings import Scope, Token

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYTHING: tuple[Scope, ...] = ("admin",)
_READING = ("GET", "HEAD", "OPTIONS")


class TooOften(RateLimited):
    """RateLimited, with the seconds after which to try again."""

    def __init__(self, wait: float) -> None:
        self.retry_after = math.ceil(wait)
        super().__init__(f"Too many requests; try again in {self.retry_after} s.")


class RateLimit:
    """A token bucket for each key: `per_minute` at once, refilled at that rate. 0 is no limit."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> float:
        """Count one request. Returns 0, or the seconds to wait if it may not be."""
        if not self._per_minute:
            return 0.0
        now = self._clock()
        left, since = self._buckets.get(key, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - since) * self._per_minute / 60)
        allowed = left >= 1
        self._buckets[key] = (left - 1 if allowed else left, now)
        return 0.0 if allowed else (1 - left) * 60 / self._per_minute


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. name: of the token, or the address of a client on this machine."""

    name: str
    scopes: Collection[Scope]

    def may(self, scope: Scope) -> bool:
        return "admin" in self.scopes or scope in self.scopes


class Guard:
    """Lets callers in, or raises Unauthorized, Forbidden or TooOften.

    Without any token, everything is allowed to programs on this machine.
    """

    def __init__(self, tokens: Sequence[Token], origins: Collection[str], limit: RateLimit) -> None:
        self._tokens = [(token.token.get_secret_value().encode(), Caller(token.name, token.scopes)) for token in tokens]
        self._origins = frozenset(origins)
        self._limit = limit

    def admit(self, connection: HTTPConnection, scope: Scope) -> Caller:
        """Check a request, or a WebSocket that is about to open."""
        caller = self._bearer(connection) if self._tokens else self._neighbour(connection)
        if not caller.may(scope):
            raise Forbidden(f"The token {caller.name} does not have the scope {scope}.")
        self._check_origin(connection)
        self.count(caller)
        return caller

    def count(self, caller: Caller) -> None:
        """Count one request of a caller that has been admitted."""
        if wait := self._limit.take(caller.name):
            raise TooOften(wait)

    def _bearer(self, connection: HTTPConnection) -> Caller:
        scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
        given = secret.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
        # All are compared, whichever fits, so that the time it takes tells nothing.
        known = [caller for token, caller in self._tokens if hmac.compare_digest(token, given)]
        if not known:
            raise Unauthorized("A known token is needed, as the header Authorization: Bearer TOKEN.")
        return known[0]

    def _neighbour(self, connection: HTTPConnection) -> Caller:
        # A web page may point a name of its own at 127.0.0.1; the Host header then still has that name.
        if _hostname(connection) not in _LOOPBACK:
            raise Forbidden("Without a token in the settings, only requests to 127.0.0.1 or localhost are served.")
        client = connection.client
        return Caller(client.host if client else "local", _EVERYTHING)

    def _check_origin(self, connection: HTTPConnection) -> None:
        origin = connection.headers.get("origin")
        if origin is None or (connection.scope["type"] == "http" and connection.scope["method"] in _READING):
            return
        host = connection.headers.get("host", "?")
        same = origin.partition("://")[2].lower() == host.lower()
        if not same and origin not in self._origins:
            raise Forbidden("This page's origin may not talk to the service; add it to server.origins.")


def _hostname(connection: HTTPConnection) -> str | None:
    try:
        return urlsplit("//" + connection.headers.get("host", "")).hostname
    except ValueError:  # such as [::1 without its bracket
        return None


class Allow(SecurityBase):
    """The dependency of a route: gives the Caller, if it has `scope`. OpenAPI shows the bearer scheme."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.scheme_name = "token"
        self.model = HTTPBearer(description="A token of the settings. None is needed if the settings have none.")

    async def __call__(self, connection: HTTPConnection) -> Caller:
        guard: Guard = connection.state["guard"]
        return guard.admit(connection, self.scope)
