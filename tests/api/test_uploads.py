"""Files that come with messages: kept once, by what they are, and gone with their messages."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qqmem.errors import InvalidRequest
from qqmem.formats import HEAD, format_of
from qqmem.uploads import GRACE, LARGEST, Uploads
from tests.api.conftest import Service, Stage, make_settings, running
from tests.api.far_end import PRIVATE, far_end

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
GIF = b"GIF89a" + bytes(50)
_FILES = {
    ("image", "png"): PNG, ("image", "jpg"): b"\xff\xd8\xff\xe0", ("image", "gif"): GIF,
    ("image", "webp"): b"RIFF\x10\0\0\0WEBPVP8 ", ("image", "bmp"): b"BM\x10\x10\0\0\0\0\0\0",
    ("video", "mp4"): b"\0\0\0\x18ftypisom", ("video", "mov"): b"\0\0\0\x14ftypqt  ",
    ("video", "webm"): b"\x1a\x45\xdf\xa3", ("video", "avi"): b"RIFF\x10\0\0\0AVI LIST",
    ("audio", "mp3"): b"ID3\x04", ("audio", "wav"): b"RIFF\x10\0\0\0WAVEfmt ", ("audio", "ogg"): b"OggS",
    ("audio", "flac"): b"fLaC", ("audio", "m4a"): b"\0\0\0\x18ftypM4A ", ("audio", "amr"): b"#!AMR\n",
    ("audio", "silk"): b"\x02#!SILK_V3",
}  # fmt: skip


@pytest.mark.parametrize("known", _FILES)
def test_a_file_is_what_its_first_bytes_say(known: tuple[Any, str]) -> None:
    kind, extension = known
    for other in ("image", "video", "audio"):
        found = format_of(other, _FILES[known][:HEAD])
        assert (found is not None and found.extension == extension) is (other == kind)
    assert format_of("file", _FILES[known]) == format_of("file", b"")


@pytest.mark.parametrize("head", [b"", b"<html>", b"<svg xmlns=", b"MZ", b"%PDF-1.7", b"RIFF", b"\x89PN"])
def test_what_is_none_is_none(head: bytes) -> None:
    assert [format_of(kind, head) for kind in ("image", "video", "audio")] == [None] * 3


async def put(service: Service, content: bytes = PNG, kind: str = "image", **more: Any) -> Any:
    return await service.http.post(f"/api/upload/{kind}", files={"file": ("../../x.html", content)}, **more)


async def upload(service: Service, content: bytes = PNG) -> dict[str, Any]:
    answer = await put(service, content)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_multipart_and_base64_are_the_same_upload(tmp_path: Path, service: Service) -> None:
    first = await upload(service)
    text = base64.b64encode(PNG).decode()
    for data in (text, f"data:image/jpeg;base64,{text}"):
        answer = await service.http.post("/api/upload/image", json={"data": data, "format": "jpeg"})
        assert answer.json() == first
    assert (first["kind"], first["media_type"], first["size"]) == ("image", "image/png", len(PNG))
    found = await service.http.get(first["url"])
    assert found.content == PNG
    assert found.headers["content-type"] == "image/png"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert found.headers["cache-control"] == "private, no-cache"
    assert (await service.http.get(first["url"].replace(".png", ".gif"))).status_code == 404
    assert len([path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]) == 1


async def test_a_page_is_never_shown(service: Service) -> None:
    found = (await put(service, b"<script>", "file")).json()
    answer = await service.http.get(found["url"])
    assert answer.content == b"<script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (422, {"files": {"file": ("a.png", b"<html>")}}),
        (422, {"files": {"file": ("a.png", b"")}}),
        (422, {"files": {"other": ("a.png", PNG)}}),
        (422, {"data": {"file": "text"}}),
        (422, {"content": b"--", "headers": {"Content-Type": "multipart/form-data"}}),
        (422, {"content": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}),
        (422, {"json": {}}),
        (422, {"json": {"data": "§"}}),
        (422, {"json": {"data": ""}}),
        (422, {"content": b"{"}),
        (422, {"content": b'{"data": "\\ud800"}'}),
        (413, {"files": {"file": ("a.png", PNG + bytes(LARGEST["image"]))}}),
        (413, {"content": b"x" * (LARGEST["image"] * 4 // 3 + 2**17)}),
    ],
)
async def test_what_cannot_be_kept_is_one_clear_error(
    tmp_path: Path, service: Service, status: int, request_: dict[str, Any]
) -> None:
    answer = await service.http.post("/api/upload/image", **request_)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"].endswith(".")
    assert not [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]


async def test_a_body_that_does_not_say_its_length_is_limited_too(service: Service) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(2 * LARGEST["image"] // 2**20):
            yield bytes(2**20)

    assert (await service.http.post("/api/upload/image", content=body())).status_code == 413


@pytest.mark.parametrize("name", ["x.png", "%2e%2e%2fqqmem.db", "a" * 64 + ".png", "A" * 64 + ".png", "a" * 64])
async def test_nothing_else_can_be_read(service: Service, name: str) -> None:
    assert (await service.http.get(f"/static/images/{name}")).status_code in (404, 422)
    assert (await service.http.get(f"/static/secrets/{name}")).status_code in (404, 422)


async def test_who_may_upload_and_who_may_look(tmp_path: Path) -> None:
    scopes = ("chat", "bridge", "read", "admin")
    tokens = [{"name": scope, "token": f"{scope}-token", "scopes": (scope,)} for scope in scopes]
    async with running(make_settings(tmp_path, server={"tokens": tokens}), Stage()) as service:
        may = {scope: {"Authorization": f"Bearer {scope}-token"} for scope in scopes}
        done = {scope: (await put(service, headers=may[scope])).status_code for scope in scopes}
        assert done == {"chat": 200, "bridge": 200, "read": 403, "admin": 200}
        url = (await put(service, headers=may["chat"])).json()["url"]
        seen = {scope: (await service.http.get(url, headers=may[scope])).status_code for scope in scopes}
        assert seen == {"chat": 403, "bridge": 403, "read": 200, "admin": 200}
        assert (await service.http.get(url)).status_code == 401


async def test_an_upload_goes_with_the_message_that_is_taken_back(tmp_path: Path, service: Service) -> None:
    found, other = await upload(service), await upload(service, GIF)
    async with far_end(service) as end:
        await end.say(1, "看[图片]", images=[found["id"], "image-unknown", found["id"]])
        await end.say(2, "", images=[other["id"]])  # nothing but a picture
        await end.until("ack", seq=2)
        said, _ = await service.stored()
        assert [one.text for one in said if one.role == "user"] == ["看[图片]", "[图片]"]
        await end.send("withdraw", seq=3, conversation=PRIVATE, message_id="100")
        await end.until("ack", seq=3)
    assert (await service.http.get(found["url"])).status_code == 404
    assert (await service.http.get(other["url"])).content == GIF
    assert [path.suffix for path in (tmp_path / "uploads").rglob("*.*")] == [".gif"]
    await service.http.delete(f"/api/conversations/{PRIVATE}")
    assert (await service.http.get(other["url"])).status_code == 404
    assert await service.state["uploads"].sweep(datetime.now(UTC)) == 1
    assert not list((tmp_path / "uploads").rglob("*.*"))


async def test_a_picture_that_two_have_sent_stays_for_the_other(service: Service) -> None:
    found = await upload(service)
    async with far_end(service) as end:
        await end.say(1, images=[found["id"]])
        await end.until("ack", seq=1)
        await upload(service)  # somebody else sends it, too; their message has not come yet
        await end.send("withdraw", seq=2, conversation=PRIVATE, message_id="100")
        await end.until("ack", seq=2)
        assert (await service.http.get(found["url"])).status_code == 200
        await end.say(3, conversation="private:10002", images=[found["id"]])
        await end.until("ack", seq=3)
        await end.send("withdraw", seq=4, conversation="private:10002", message_id="300")
        await end.until("ack", seq=4)
    assert (await service.http.get(found["url"])).status_code == 404


async def test_an_upload_without_a_message_goes_after_a_while(tmp_path: Path, service: Service) -> None:
    await upload(service)
    uploads = service.state["uploads"]
    assert await uploads.sweep(datetime.now(UTC) + GRACE - timedelta(minutes=1)) == 0
    assert await uploads.sweep(datetime.now(UTC) + GRACE + timedelta(seconds=1)) == 1
    assert not list((tmp_path / "uploads").rglob("*.*"))


async def test_a_file_that_a_crash_has_left_goes(tmp_path: Path, service: Service) -> None:
    stray = tmp_path / "uploads" / "images" / "aa" / f"{'a' * 64}.png"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(PNG)
    uploads = service.state["uploads"]
    assert await uploads.sweep(datetime.now(UTC)) == 0  # it may be about to be known
    assert await uploads.sweep(datetime.now(UTC) + GRACE + timedelta(seconds=1)) == 1
    assert not stray.exists()


async def test_what_a_kill_has_left_half_written_goes(tmp_path: Path) -> None:
    half = tmp_path / "uploads" / "incoming" / "half"
    half.parent.mkdir(parents=True)
    half.write_bytes(PNG)
    async with running(make_settings(tmp_path), Stage()) as service, asyncio.timeout(10):
        while half.exists():
            await service.http.get("/health")


async def test_uploads_and_sweeps_at_once_lose_nothing(tmp_path: Path, service: Service) -> None:
    uploads: Uploads = service.state["uploads"]
    late = datetime.now(UTC) + GRACE + timedelta(minutes=1)

    async def chunks() -> AsyncIterator[bytes]:
        yield PNG

    for _ in range(10):
        found, *_ = await asyncio.gather(uploads.add("image", chunks()), uploads.sweep(late), uploads.sweep(late))
        kept = await uploads.find("image", found.name)
        assert (kept is not None) is found.path.is_file()


async def test_a_broken_upload_leaves_nothing(tmp_path: Path, service: Service) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield PNG
        raise InvalidRequest("The client is gone.")

    with pytest.raises(InvalidRequest):
        await service.state["uploads"].add("image", chunks())
    assert not [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]
