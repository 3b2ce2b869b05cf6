"""Pictures are fetched at once, from where they may be, and from nowhere else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qqmem_bridge import pictures as module
from qqmem_bridge.counters import Counters
from qqmem_bridge.errors import CallFailed
from qqmem_bridge.messages import parse
from qqmem_bridge.pictures import LARGEST, MOST, Pictures
from qqmem_bridge.transport import Event

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))


class Asked:
    """QQ's side as a Transport: it answers get_image, and nothing else. "never" is no answer at all."""

    connected, reconnects = True, 0

    def __init__(self, answer: Any = None) -> None:
        self._answer = answer
        self.calls: list[str] = []

    async def run(self) -> None:
        raise AssertionError

    async def events(self) -> AsyncIterator[Event]:
        raise AssertionError
        yield {}

    async def call(self, action: str, params: Mapping[str, Any]) -> Any:
        self.calls.append(action)
        if self._answer == "never":
            await asyncio.Event().wait()
        if self._answer is None:
            raise CallFailed(action, 1200, "no such file")
        return self._answer


class Files:
    """A server of files on this machine. asked: the paths, in order; heads: what came with the last of them."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.heads = b""
        self.at = ""

    def put(self, path: str, content: bytes, status: str = "200 OK", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items())])
        self.answers[path] = f"{head}\r\n\r\n".encode() + content

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads = await reader.readuntil(b"\r\n\r\n")
        path = self.heads.split(b" ")[1].decode()
        self.asked.append(path)
        try:
            writer.write(self.answers[path])
            await writer.drain()
        except ConnectionError:  # who asked has had enough
            return
        finally:
            writer.close()


@asynccontextmanager
async def files() -> AsyncIterator[Files]:
    found = Files()
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    found.at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()


async def fetched(message: object, *own: str, asked: Any = None) -> list[bytes]:
    """The pictures of a message that was said in private."""
    event = {"message_type": "private", "user_id": 1, "message_id": 2, "message": message}
    incoming = parse(event, 1000.0)
    assert incoming is not None
    pictures = Pictures(Asked(asked), Counters(), own)
    try:
        return await pictures.of(incoming)
    finally:
        await pictures.close()


class NameServer:
    """In place of socket.getaddrinfo: the addresses of qq.example, other ones at each look-up until the last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self._real = socket.getaddrinfo
        self._answers = answers
        self.asked = 0
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: Any, port: Any, *more: Any, **options: Any) -> list[Any]:
        if host not in ("qq.example", b"qq.example"):
            return self._real(host, port, *more, **options)
        addresses = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, int(port))) for one in addresses]


def image(url: str) -> list[dict[str, Any]]:
    return [{"type": "image", "data": {"file": "A.png", "url": url}}]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0"])
async def test_this_machine_is_not_asked(host: str) -> None:
    async with files() as server:
        server.put("/a.png", PNG)
        port = server.at.partition(":")[2]
        assert await fetched(image(f"http://{host}:{port}/a.png")) == []
        assert await fetched(image(f"http://user:pw@{host}:{port}/a.png")) == []
        assert server.asked == []
        assert await fetched(image(f"http://{server.at}/a.png"), server.at) == [PNG]  # unless it is NapCat's own


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/a.png", "http://192.168.1.1/a.png",
        "http://172.16.0.1/a.png", "http://100.64.0.1/a.png", "http://[fe80::1%25lo]/a.png", "http://[fd00::1]/a.png",
        "http://[64:ff9b::7f00:1]/a.png", "http://[64:ff9b:1::a00:1]/a.png", "http://[fec0::1]/a.png",
        "http://[::10.0.0.1]/a.png", "http://[::ffff:0:a00:1]/a.png", "http://[2002:7f00:1::]/a.png", "http://224.0.0.1/a.png",
        "file:///etc/passwd", "/etc/passwd", "ftp://1.1.1.1/a.png", "gopher://1.1.1.1/", "http://", "http://a:99999/",
        "https://[/", "http:///a.png", "", "data:image/png;base64,iVBORw0KGgo=",
    ],
)  # fmt: skip
async def test_what_is_no_public_address_is_not_asked(url: str) -> None:
    async with asyncio.timeout(5):
        assert await fetched(image(url)) == []
        assert await fetched(image(url), asked={"file": "/etc/passwd", "url": url + " "}) == []


async def test_a_path_in_a_cq_code_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    for text in (f"[CQ:image,file={secret},url={secret}]", f"[CQ:image,file=file://{secret}]"):
        assert await fetched(text) == []
        assert await fetched(text, asked={"file": str(secret), "url": str(secret)}) == []


async def test_each_redirect_is_looked_at() -> None:
    async with files() as own, files() as other:
        other.put("/a.png", PNG)
        own.put("/there", b"", "302 Found", Location=f"http://{other.at}/a.png")
        own.put("/file", b"", "302 Found", Location="file:///etc/passwd")
        own.put("/round", b"", "302 Found", Location="/round")
        own.put("/here", b"", "302 Found", Location="/a.png")
        own.put("/a.png", PNG)
        for path in ("there", "file", "round"):
            assert await fetched(image(f"http://{own.at}/{path}"), own.at) == []
        assert other.asked == []
        assert own.asked.count("/round") == 4
        assert await fetched(image(f"http://{own.at}/here"), own.at) == [PNG]


async def test_what_is_no_picture_or_too_large_is_left_out() -> None:
    async with files() as own:
        own.put("/page", b"<html>")
        own.put("/gone", PNG, "404 Not Found")
        own.put("/huge", PNG + bytes(LARGEST))
        own.put("/a.gif", b"GIF89a123")
        message = [one for path in ("page", "gone", "huge", "a.gif") for one in image(f"http://{own.at}/{path}")]
        assert await fetched(message, own.at) == [b"GIF89a123"]


async def test_an_address_that_is_no_good_any_more_is_asked_for_again() -> None:
    async with files() as own:
        own.put("/old", b"expired", "400 Bad Request")
        own.put("/new", PNG)
        message = image(f"http://{own.at}/old")
        assert await fetched(message, own.at, asked={"url": f"http://{own.at}/new"}) == [PNG]
        encoded = base64.b64encode(PNG).decode()
        for content in (encoded, f"base64://{encoded}"):
            assert await fetched(message, own.at, asked={"base64": content}) == [PNG]
        answers: list[Any] = [{"base64": "§"}, {"base64": "YWJj"}, {}, [], "x"]
        for nonsense in answers:
            assert await fetched(message, own.at, asked=nonsense) == []
        before = len(own.asked)
        assert await fetched(message, own.at, asked={"url": f"http://{own.at}/old"}) == []
        assert len(own.asked) == before + 1  # the same address is no better


async def test_a_name_with_one_address_that_is_not_public_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    NameServer(monkeypatch, ["127.0.0.1", "1.1.1.1"])
    async with files() as server:
        server.put("/a.png", PNG)
        assert await fetched(image(f"http://qq.example:{server.at.partition(':')[2]}/a.png")) == []
        assert server.asked == []


async def test_what_is_asked_is_the_address_that_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    names = NameServer(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    async with files() as server:
        server.put("/a.png", PNG)
        host = f"qq.example:{server.at.partition(':')[2]}"
        assert await fetched(image(f"http://user:pw@{host}/a.png"), host) == [PNG]
        assert names.asked == 1
        assert f"\r\nHost: {host}\r\n".encode() in server.heads


async def test_over_https_a_server_is_asked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    NameServer(monkeypatch, ["127.0.0.1"])
    hellos = asyncio.Queue[bytes]()

    async def greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hellos.put_nowait(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(greeted, "127.0.0.1", 0) as server:
        host = f"qq.example:{server.sockets[0].getsockname()[1]}"
        assert await fetched(image(f"https://{host}/a.png"), host) == []
    hello = await hellos.get()
    assert hello[:1] == b"\x16"
    assert b"qq.example" in hello


async def test_a_picture_without_end_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + PNG)
            while sent < 10 * LARGEST:
                writer.write(bytes(2**20))
                await writer.drain()
                sent += 2**20
        writer.close()

    async with await asyncio.start_server(endless, "127.0.0.1", 0) as server:
        at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await fetched(image(f"http://{at}/a.png"), at) == []
    assert sent < 2 * LARGEST


async def test_of_a_message_with_many_pictures_some_are_fetched() -> None:
    async with files() as own:
        own.put("/a.png", PNG)
        assert await fetched(image(f"http://{own.at}/a.png") * (MOST + 3), own.at) == [PNG] * MOST
        assert len(own.asked) == MOST


async def test_a_picture_that_never_comes_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.5)
    async with files() as own, asyncio.timeout(10):
        own.put("/a.png", PNG)
        assert await fetched([*image(""), *image(f"http://{own.at}/a.png")], own.at, asked="never") == [PNG]
