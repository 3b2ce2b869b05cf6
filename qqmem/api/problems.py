"""Every error as `{"error": {"code", "message"}}` with a fitting status, and the limit of a request's body."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qqmem.api.auth import TooOften
from qqmem.api.wire import INTERNAL, ErrorAnswer
from qqmem.errors import InvalidRequest, QqmemError, TooLarge, Unauthorized

log = logging.getLogger(__name__)

_CODES = {400: InvalidRequest.code, 405: "method_not_allowed", 413: TooLarge.code}
_LONGEST = 200
_STREAMED = ("/api/memories/import",)
"""Routes whose body may have any length, because they never hold more of it than a line."""
_UPLOADS = "/api/upload/"
_MOST_UPLOADED = 150 * 2**20
"""Bytes of a body there; the route has a limit of its own for each kind."""
_FRAMES = ("message", "cancel", "withdraw", "ping", "hello", "notice", "delivered", "status")
_PLACES = ("body", "query", "path", *_FRAMES)
"""What may stand before the name of a field: where it was, or the type of the frame."""


def add_handlers(app: FastAPI) -> None:
    """Have every error of `app` answered in our shape."""
    app.add_exception_handler(QqmemError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def note(error: QqmemError) -> None:
    """Log an error that is told to a client, but is not the client's."""
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s: %s", error.code, error)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these errors may come."""
    return {status: {"model": ErrorAnswer, "description": HTTPStatus(status).phrase} for status in statuses}


def sentence(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors as a sentence that names the field."""
    kind, where, what = errors[0]["type"], errors[0]["loc"], errors[0]["msg"]
    name = ".".join(str(part) for part in (where[1:] if where and where[0] in _PLACES else where))
    match kind:
        case "missing":
            text = f"The field {name} is missing." if name else "The body is missing."
        case "extra_forbidden":
            text = f"There is no field {name}."
        case "model_attributes_type" if not name:
            text = "The body must be a JSON object, sent with Content-Type: application/json."
        case "union_tag_not_found":
            text = "The field type is missing."
        case "union_tag_invalid":
            text = f"There is no frame of type {errors[0]['ctx']['tag']}."
        case _:
            text = f"{name or 'The message'}: {what.removeprefix('Value error, ')}."
    return _cut(text)


def _cut(text: str) -> str:
    """Some sentences quote the client, who may have sent a book."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _answer(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


async def _known(_: HTTPConnection, error: Exception) -> JSONResponse:
    assert isinstance(error, QqmemError), "registered for QqmemError"
    note(error)
    headers = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooOften):
        headers["Retry-After"] = str(error.retry_after)
    return _answer(error.status, error.code, str(error), headers)


async def _invalid(_: HTTPConnection, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError), "registered for RequestValidationError"
    errors = error.errors()
    if errors[0]["type"] == "json_invalid":
        return _answer(400, InvalidRequest.code, "The body is not valid JSON.")
    return _answer(InvalidRequest.status, InvalidRequest.code, sentence(errors))


async def _http(connection: HTTPConnection, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException), "registered for HTTPException"
    status, path = error.status_code, connection.url.path
    sentences = {404: f"There is no route {path}.", 405: f"The route {path} does not take this method."}
    text = sentences.get(status, f"{error.detail}.")
    code = _CODES.get(status, HTTPStatus(status).name.lower())
    return _answer(status, code, _cut(text), dict(error.headers or {}))


async def _unexpected(_: HTTPConnection, __: Exception) -> JSONResponse:
    # A bug: the server logs its traceback, and the client is told nothing that may be private.
    return _answer(500, INTERNAL, "The service has made a mistake; its log says more.")


class BodyLimit:
    """Middleware: answers 413 to a body of more than `max_bytes`, but where the route reads it bit by bit.

    Not FastAPI's own max_body_size, whose answer to a declared length is plain text.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        is_upload = scope["type"] == "http" and scope["path"].startswith(_UPLOADS)
        most = _MOST_UPLOADED if is_upload else self._max_bytes

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise HTTPException(413, f"The body is longer than {most} bytes")
            return message

        is_limited = scope["type"] == "http" and scope["path"] not in _STREAMED
        await self._app(scope, counted if is_limited else receive, send)
