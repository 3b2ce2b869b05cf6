"""Pictures handed over to the service: with its token, and tried twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from qqmem_bridge.counters import Counters
from qqmem_bridge.upload import Uploader
from tests.bridge.harness import FastClock


class Service:
    """It takes pictures under rising numbers. refuses: how many it does not take first. heads: of the requests."""

    def __init__(self) -> None:
        self.refuses = 0
        self.heads: list[str] = []
        self.at = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1)
        if first == b"P":
            head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            length = next(line for line in head.lower().splitlines() if line.startswith("content-length:"))
            await reader.readexactly(int(length.partition(":")[2]))
            taken = len(self.heads) > self.refuses
            body = json.dumps({"id": f"image-{len(self.heads)}"})
            lines = [f"HTTP/1.1 {'200 OK' if taken else '503 Later'}", f"Content-Length: {len(body)}"]
            writer.write("\r\n".join([*lines, "Connection: close", "", body]).encode())
        else:
            self.heads.append("TLS" if first == b"\x16" else "nonsense")
        writer.close()


@asynccontextmanager
async def uploading(scheme: str = "ws") -> AsyncIterator[tuple[Service, Uploader, Counters]]:
    service, counters = Service(), Counters()
    async with await asyncio.start_server(service.answer, "127.0.0.1", 0) as server:
        at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        uploader = Uploader(f"{scheme}://{at}/ws/bridge?x=1", "secret", FastClock(), counters)
        try:
            yield service, uploader, counters
        finally:
            await uploader.close()


async def test_the_token_goes_with_it() -> None:
    async with uploading() as (service, uploader, _):
        assert await uploader.pictures([b"1", b"2"]) == ["image-1", "image-2"]
        for head in service.heads:
            assert head.startswith("POST /api/upload/image HTTP/1.1\r\n")
            assert "\r\nAuthorization: Bearer secret\r\n" in head


async def test_the_token_goes_over_tls_where_the_socket_does() -> None:
    async with uploading("wss") as (service, uploader, _):
        assert await uploader.pictures([b"1"]) == []
        assert service.heads == ["TLS", "TLS"]


async def test_a_picture_that_is_not_taken_is_tried_once_more() -> None:
    async with uploading() as (service, uploader, counters):
        service.refuses = 1
        assert await uploader.pictures([b"1"]) == ["image-2"]
        assert counters["pictures_missing"] == 0
        service.refuses = 4
        assert await uploader.pictures([b"1", b"2"]) == ["image-5"]
        assert counters["pictures_missing"] == 1
