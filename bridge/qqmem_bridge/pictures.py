"""Pictures, fetched at once: their addresses are good for a short while only, and may be forged.

Only http and https, only to addresses of the public internet or those that the settings name, each redirect looked at
like the first address, and never a file of this machine.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import logging
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from qqmem_bridge.counters import Counters
from qqmem_bridge.errors import CallError
from qqmem_bridge.messages import Incoming, data
from qqmem_bridge.transport import Segment, Transport

log = logging.getLogger(__name__)

LARGEST = 20 * 2**20
"""Bytes of a picture."""
MOST = 9
"""Pictures of one message."""
_SECONDS = 8.0
"""From a message's arrival until its pictures are there, or it goes on without them."""
_REDIRECTS = 3
_AT_ONCE = 4
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")


class Unwanted(Exception):
    """Nothing is fetched from there, or what came is no picture. The text says why, without the address."""


class Pictures:
    """own: `host:port` of servers that may be asked though they are not public, such as NapCat's own."""

    def __init__(self, transport: Transport, counters: Counters, own: Collection[str] = ()) -> None:
        self._transport = transport
        self._counters = counters
        self._own = frozenset(own)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def of(self, message: Incoming) -> list[bytes]:
        """The pictures of a message that can be had, in order."""
        segments = [segment for segment in message.segments if segment["type"] == "image"][:MOST]
        found: list[bytes | None] = [None] * len(segments)

        async def fetch(n: int, segment: Segment) -> None:
            found[n] = await self._picture(segment)

        try:
            async with asyncio.timeout(_SECONDS), asyncio.TaskGroup() as group:
                for n, segment in enumerate(segments):
                    group.create_task(fetch(n, segment))
        except TimeoutError:
            log.info("a picture took too long")
        missing = sum(one is None for one in found)
        self._counters.add("pictures", len(found) - missing)
        self._counters.add("pictures_missing", missing)
        return [one for one in found if one is not None]

    async def _picture(self, segment: Segment) -> bytes | None:
        """By its address; if that is no good any more, by asking QQ's side for it."""
        why = "no address"
        if url := data(segment).get("url"):
            try:
                return await self._fetch(str(url))
            except Unwanted as error:
                why = str(error)
        try:
            return await self._asked(data(segment))
        except Unwanted as error:
            log.info("a picture could not be had (%s; then %s)", why, error)
            return None

    async def _asked(self, segment: Mapping[str, Any]) -> bytes:
        try:
            answer = await self._transport.call("get_image", {"file": str(segment.get("file") or "")})
        except CallError as error:
            raise Unwanted("QQ's side does not have it") from error
        if not isinstance(answer, Mapping):
            raise Unwanted("QQ's side does not have it")
        if isinstance(content := answer.get("base64"), str) and content:
            return _picture(_unpacked(content))
        if (url := answer.get("url")) and url != segment.get("url"):
            return await self._fetch(str(url))
        raise Unwanted("QQ's side has no other address")

    async def _fetch(self, url: str) -> bytes:
        async with self._turns:
            for _ in range(_REDIRECTS + 1):
                request = await self._request(url)
                assert self._client is not None, "made with the request"
                try:
                    answer = await self._client.send(request, stream=True)
                    try:
                        if not answer.is_redirect:
                            return _picture(await _content(answer))
                        url = urljoin(url, answer.headers["location"])
                    finally:
                        await answer.aclose()
                except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                    raise Unwanted(type(error).__name__) from error
        raise Unwanted("too many redirects")

    async def _request(self, url: str) -> httpx.Request:
        """A request to the very address that was looked at: a second look-up of the name might say another."""
        if self._client is None:  # it reads certificates, which takes a while
            self._client = await asyncio.to_thread(httpx.AsyncClient, trust_env=False, timeout=_SECONDS)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
            if not host:
                raise Unwanted("not an address")
            address = await self._address(host, port)
            target = httpx.URL(url).copy_with(host=address)
            headers = {"Host": parts.netloc.rpartition("@")[2], "Accept": "image/*"}
            return self._client.build_request("GET", target, headers=headers, extensions={"sni_hostname": host})
        except (KeyError, ValueError, httpx.InvalidURL) as error:
            raise Unwanted("not an address of http or https") from error

    async def _address(self, host: str, port: int) -> str:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unwanted("no such host") from error
        addresses = [str(one[4][0]) for one in found]
        if not addresses or not (f"{host}:{port}" in self._own or all(map(_is_public, addresses))):
            raise Unwanted("not a public address")
        return addresses[0]


def own_servers(addresses: Sequence[str]) -> frozenset[str]:
    """`host:port` of each, in the spelling in which it is compared."""
    return frozenset(address.strip().lower() for address in addresses)


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if inner:
            return _is_public(str(inner))
        if found in ipaddress.ip_network("64:ff9b::/96"):  # an IPv4 address behind a translator
            return _is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found not in ipaddress.ip_network("2000::/3"):  # others may lead to a private IPv4 address, or inside
            return False
    return found.is_global and not found.is_multicast


async def _content(answer: httpx.Response) -> bytes:
    if answer.status_code != httpx.codes.OK:
        raise Unwanted(f"HTTP {answer.status_code}")
    found = bytearray()
    async for chunk in answer.aiter_bytes():
        found += chunk
        if len(found) > LARGEST:
            raise Unwanted("too large")
    return bytes(found)


def _unpacked(content: str) -> bytes:
    try:
        return base64.b64decode(content.removeprefix("base64://"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unwanted("not base64") from error


def _picture(content: bytes) -> bytes:
    """The same, if it is a picture by its first bytes. Raises Unwanted."""
    is_webp = content.startswith(b"RIFF") and content[8:12] == b"WEBP"
    if len(content) > LARGEST or not (is_webp or content.startswith(_STARTS)):
        raise Unwanted("too large" if len(content) > LARGEST else "not a picture")
    return content
