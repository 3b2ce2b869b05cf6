"""The dashboard's files, as they lie in the package."""

from __future__ import annotations

import asyncio
import hashlib
import re
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

from qqmem.errors import NotFound

router = APIRouter(include_in_schema=False)

_NAME = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]*")
_TYPES = {
    "html": "text/html",
    "js": "text/javascript",
    "mjs": "text/javascript",
    "css": "text/css",
    "json": "application/json",
    "webmanifest": "application/manifest+json",
    "txt": "text/plain",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/x-icon",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked for each time, and answered by 304
}


@router.get("/")
async def get_dashboard(request: Request) -> Response:
    """The page."""
    return await _answer(request, "index.html")


@router.get("/dashboard/{path:path}")
async def get_dashboard_file(path: str, request: Request) -> Response:
    """What the page loads."""
    return await _answer(request, path)


async def _answer(request: Request, path: str) -> Response:
    content = await asyncio.to_thread(_read, files("qqmem") / "dashboard", path)
    headers = {**HEADERS, "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=_TYPES[_ending(path)])


def _read(folder: Traversable, path: str) -> bytes:
    """Raises NotFound: there is no such file, or its name is none of those that we give."""
    parts = path.split("/")
    if _ending(path) in _TYPES and all(map(_NAME.fullmatch, parts)):
        found = folder.joinpath(*parts)
        if found.is_file():
            return found.read_bytes()
    raise NotFound(f"The dashboard has no file {path[:200]}.")


def _ending(path: str) -> str:
    return path.rpartition(".")[2]
