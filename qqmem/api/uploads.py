"""Files that come with messages: uploaded by clients and bridges, and looked at by who may read."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Security
from fastapi.responses import FileResponse
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from qqmem.api.auth import Allow, Caller, Guard
from qqmem.api.problems import documented, sentence
from qqmem.api.state import Reader, TheUploads
from qqmem.api.wire_upload import BODIES, UploadAnswer, UploadBody
from qqmem.errors import Forbidden, InvalidRequest, NotFound, TooLarge
from qqmem.formats import Kind
from qqmem.uploads import LARGEST, Upload

router = APIRouter()

_CHUNK = 2**18
_JSON_TOO = 64 * 2**10
"""Bytes that a JSON body may have besides its data."""
_KINDS: dict[str, Kind] = {"images": "image", "videos": "video", "audios": "audio", "files": "file"}
_CONTENT: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {"example": "(the file)"}}}}
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, no-cache",  # what was taken back is asked for again, and is gone
}


class _AllowSender(Allow):
    """Who may bring in messages: the scope chat, or bridge."""

    async def __call__(self, connection: HTTPConnection) -> Caller:
        guard: Guard = connection.state["guard"]
        try:
            return guard.admit(connection, "bridge")
        except Forbidden:
            return guard.admit(connection, "chat")


Sender = Annotated[Caller, Security(_AllowSender("chat"))]


@router.post("/api/upload/{kind}", responses=documented(400, 401, 403, 413, 422, 429), openapi_extra=BODIES)
async def upload(kind: Kind, request: Request, uploads: TheUploads, _: Sender) -> UploadAnswer:
    """Keep a file for a message that is about to be sent: multipart with the field `file`, or JSON with base64.

    The same file twice is one upload. Without a message it is deleted after an hour; with one, when that is taken back
    or its conversation deleted.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return _answer(await _multipart(kind, request, uploads))
    data = await asyncio.to_thread(_decoded, await _body(kind, request))
    return _answer(await uploads.add(kind, _cut(data)))


@router.get(
    "/static/{folder}/{name}",
    response_class=FileResponse,
    responses=documented(401, 403, 404, 422, 429) | _CONTENT,
)
async def static(
    folder: Literal["images", "videos", "audios", "files"],
    name: Annotated[str, Path(pattern=r"^[0-9a-f]{64}\.[0-9a-z]{2,4}$")],
    uploads: TheUploads,
    _: Reader,
) -> FileResponse:
    """An upload, as long as a message has it."""
    found = await uploads.find(_KINDS[folder], name)
    if found is None:
        raise NotFound("There is no such file.")
    shown = "inline" if found.kind != "file" else "attachment"
    return FileResponse(
        found.path, media_type=found.media_type, filename=name, content_disposition_type=shown, headers=_SAFE
    )


async def _multipart(kind: Kind, request: Request, uploads: TheUploads) -> Upload:
    _limit(request, LARGEST[kind] + _JSON_TOO)
    try:
        async with request.form(max_files=1, max_fields=8, max_part_size=_JSON_TOO) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise InvalidRequest("The field file is missing.")
            return await uploads.add(kind, _chunks(file))
    except HTTPException as error:
        if error.status_code == TooLarge.status:
            raise _too_large(kind) from error
        raise InvalidRequest("The body is not valid multipart/form-data with one file.") from error


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(_CHUNK):
        yield chunk


async def _body(kind: Kind, request: Request) -> bytes:
    most = LARGEST[kind] * 4 // 3 + _JSON_TOO
    _limit(request, most)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise _too_large(kind)
    return bytes(body)


def _decoded(body: bytes) -> bytes:
    """The file in a JSON body."""
    try:
        text = UploadBody.model_validate_json(body).data
        return base64.b64decode(text.rpartition(",")[2] if text.startswith("data:") else text, validate=True)
    except ValidationError as error:
        raise InvalidRequest(sentence(error.errors(include_url=False))) from error
    except ValueError as error:
        raise InvalidRequest("The field data is not base64.") from error


async def _cut(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]


def _limit(request: Request, most: int) -> None:
    """A body that says itself that it is too long is not read."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise TooLarge(f"The body is longer than {most} bytes.")


def _too_large(kind: Kind) -> TooLarge:
    return TooLarge(f"The file is too large; at most {LARGEST[kind] // 2**20} MB are accepted.")


def _answer(found: Upload) -> UploadAnswer:
    return UploadAnswer(
        id=found.id,
        kind=found.kind,
        media_type=found.media_type,
        size=found.size,
        filename=found.name,
        url=f"/static/{found.kind}s/{found.name}",
    )
