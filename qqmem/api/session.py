"""Logging in and out, for the dashboard: a token once, then a cookie that scripts cannot read."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from qqmem import __version__
from qqmem.api.auth import Caller
from qqmem.api.login import COOKIE, LIFETIME
from qqmem.api.problems import documented
from qqmem.api.state import TheGuard, TheSettings
from qqmem.api.wire_session import Login, Session
from qqmem.errors import Unauthorized
from qqmem.settings import Settings

router = APIRouter(prefix="/api/session", tags=["session"])


@router.get("", response_model_exclude_none=True, responses=documented(403))
async def get_session(request: Request, guard: TheGuard, settings: TheSettings) -> Session:
    """Who is logged in, and whether that is needed at all. Needs no token."""
    caller: Caller | None
    try:
        caller = guard.known(request)
    except Unauthorized:
        caller = None
    return _session(guard.asks, settings, caller)


@router.post("", response_model_exclude_none=True, responses=documented(400, 401, 403, 422, 429))
async def log_in(body: Login, request: Request, response: Response, guard: TheGuard, settings: TheSettings) -> Session:
    """Give a token, and get a cookie that is as good for seven days, or until the token is no longer known."""
    caller, cookie = guard.log_in(request, body.token.get_secret_value())
    if cookie is not None:
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=int(LIFETIME.total_seconds()),
            secure=_is_secure(request),
            httponly=True,
            samesite="strict",
        )
    return _session(guard.asks, settings, caller)


@router.delete("", status_code=204, responses=documented(403))
async def log_out(request: Request, response: Response, guard: TheGuard) -> None:
    """Take the cookie back."""
    guard.check_origin(request, None)
    response.delete_cookie(COOKIE, secure=_is_secure(request), httponly=True, samesite="strict")


def _session(required: bool, settings: Settings, caller: Caller | None) -> Session:
    return Session(
        required=required,
        authenticated=caller is not None,
        name=caller.name if caller else None,
        scopes=tuple(caller.scopes) if caller else None,
        expires_at=caller.until if caller else None,
        language=settings.chat.language,
        bot=settings.chat.names[0],
        version=__version__,
    )


def _is_secure(request: Request) -> bool:
    """Whether the browser speaks TLS, with us or with a proxy before us."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
