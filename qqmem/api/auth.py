"""Who may do what: bearer tokens with scopes, browsers that have logged in, the origin of web pages, and how often."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from qqmem.api.login import COOKIE, Signer
from qqmem.errors import Forbidden, RateLimited, Unauthorized
from qqmem.settings import Scope, Token

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYTHING: tuple[Scope, ...] = ("admin",)
_READING = ("GET", "HEAD", "OPTIONS")
_LOGINS = 10
"""Attempts a minute, of one address."""
_MOST_BUCKETS = 1000


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
        if len(self._buckets) >= _MOST_BUCKETS:  # those that are full again are as good as new ones
            refilled = now - 60
            self._buckets = {key: bucket for key, bucket in self._buckets.items() if bucket[1] > refilled}
        left, since = self._buckets.get(key, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - since) * self._per_minute / 60)
        allowed = left >= 1
        self._buckets[key] = (left - 1 if allowed else left, now)
        return 0.0 if allowed else (1 - left) * 60 / self._per_minute


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. name: of the token, or the address of a client on this machine. until: of a browser's login."""

    name: str
    scopes: Collection[Scope]
    until: datetime | None = None

    def may(self, scope: Scope) -> bool:
        return "admin" in self.scopes or scope in self.scopes

    @property
    def seconds(self) -> float | None:
        """How long it is still logged in; None is for ever."""
        return None if self.until is None else max(0.0, (self.until - datetime.now(UTC)).total_seconds())


class Guard:
    """Lets callers in, or raises Unauthorized, Forbidden or TooOften.

    Without any token, everything is allowed to programs on this machine.
    """

    def __init__(
        self,
        tokens: Sequence[Token],
        origins: Collection[str],
        limit: RateLimit,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """clock: seconds since 1970, by which logins end."""
        secrets = [token.token.get_secret_value().encode() for token in tokens]
        callers = [Caller(token.name, token.scopes) for token in tokens]
        self._tokens = list(zip(secrets, callers, strict=True))
        self._signers = [(Signer(secret, clock), caller) for secret, caller in self._tokens]
        self._origins = frozenset(origins)
        self._limit = limit
        self._logins = RateLimit(_LOGINS)

    @property
    def asks(self) -> bool:
        """Whether a token is needed at all."""
        return bool(self._tokens)

    def admit(self, connection: HTTPConnection, scope: Scope) -> Caller:
        """Check a request, or a WebSocket that is about to open."""
        caller = self.known(connection)
        if not caller.may(scope):
            raise Forbidden(f"The token {caller.name} does not have the scope {scope}.")
        self.check_origin(connection, caller)
        self.count(caller)
        return caller

    def count(self, caller: Caller) -> None:
        """Count one request of a caller that has been admitted."""
        if wait := self._limit.take(caller.name):
            raise TooOften(wait)

    def known(self, connection: HTTPConnection) -> Caller:
        """Who asks, by a token or by a cookie. Raises Unauthorized or Forbidden."""
        if not self._tokens:
            return self._neighbour(connection)
        if "authorization" in connection.headers:
            scheme, _, secret = connection.headers["authorization"].partition(" ")
            given = secret.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
            found = self._of_token(given)
        else:
            found = self._of_cookie(connection.cookies.get(COOKIE, ""))
        if found is None:
            raise Unauthorized("A known token is needed, as the header Authorization: Bearer TOKEN.")
        return found

    def log_in(self, connection: HTTPConnection, secret: str) -> tuple[Caller, str | None]:
        """Who has this token, and the value of a cookie; None if no token is needed.

        Raises Unauthorized, Forbidden, TooOften.
        """
        self.check_origin(connection, None)
        if not self._tokens:
            return self._neighbour(connection), None
        client = connection.client
        if wait := self._logins.take(client.host if client else ""):
            raise TooOften(wait)
        caller = self._of_token(secret.strip().encode())
        if caller is None:
            raise Unauthorized("This token is not known; use one of those in the settings.")
        signer = next(signer for signer, whose in self._signers if whose is caller)
        cookie, until = signer.sign()
        return replace(caller, until=until), cookie

    def check_origin(self, connection: HTTPConnection, caller: Caller | None) -> None:
        """Raises Forbidden if a page of somebody else is about to change something, or to open a WebSocket.

        A browser sends its cookie by itself, and says where from; a program may leave that out.
        """
        if connection.scope["type"] == "http" and connection.scope["method"] in _READING:
            return
        origin = connection.headers.get("origin")
        if origin is None:
            if caller is not None and caller.until is not None:
                raise Forbidden("With a cookie the header Origin is needed; programs send Authorization: Bearer TOKEN.")
            return
        host = connection.headers.get("host", "?")
        same = origin.partition("://")[2].lower() == host.lower()
        if not same and origin not in self._origins:
            raise Forbidden("This page's origin may not talk to the service; add it to server.origins.")

    def _of_token(self, given: bytes) -> Caller | None:
        # All are compared, whichever fits, so that the time it takes tells nothing.
        known = [caller for token, caller in self._tokens if hmac.compare_digest(token, given)]
        return known[0] if known else None

    def _of_cookie(self, cookie: str) -> Caller | None:
        ends = ((signer.read(cookie), caller) for signer, caller in self._signers) if cookie else ()
        return next((replace(caller, until=until) for until, caller in ends if until), None)

    def _neighbour(self, connection: HTTPConnection) -> Caller:
        # A web page may point a name of its own at 127.0.0.1; the Host header then still has that name.
        if _hostname(connection) not in _LOOPBACK:
            raise Forbidden("Without a token in the settings, only requests to 127.0.0.1 or localhost are served.")
        client = connection.client
        return Caller(client.host if client else "local", _EVERYTHING)


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
