"""The cookie of a browser that has logged in: it says until when, signed with the token, which is not in it.

Nothing is stored: a cookie ends with its time, or with its token, once that is no longer in the settings.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property

COOKIE = "qqmem_session"
LIFETIME = timedelta(days=7)

_SALT = b"qqmem session"
_COST = {"n": 2**13, "r": 8, "p": 1}  # some 25 ms once: whoever has got hold of a cookie cannot guess its token from it


class Signer:
    """Signs and reads the cookies of one token. clock: seconds since 1970."""

    def __init__(self, token: bytes, clock: Callable[[], float] = time.time) -> None:
        self._token = token
        self._clock = clock

    def sign(self) -> tuple[str, datetime]:
        """A cookie's value, and when it ends."""
        end = int(self._clock() + LIFETIME.total_seconds())
        return f"{end}.{self._mark(str(end))}", datetime.fromtimestamp(end, UTC)

    def read(self, cookie: str) -> datetime | None:
        """When a cookie ends; None if it is not ours, or has ended."""
        end, _, mark = cookie.partition(".")
        ours = hmac.compare_digest(self._mark(end).encode(), mark.encode())
        if not ours or float(end) <= self._clock():
            return None
        return datetime.fromtimestamp(float(end), UTC)

    def _mark(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    @cached_property
    def _key(self) -> bytes:
        return hashlib.scrypt(self._token, salt=_SALT, **_COST)
