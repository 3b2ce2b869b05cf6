"""Pictures handed over to the service, over HTTP, before the message that they belong to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import httpx

from qqmem_bridge.clock import Clock
from qqmem_bridge.counters import Counters

log = logging.getLogger(__name__)

_SECONDS = 30.0
_AGAIN_AFTER = 1.0
_SOCKET = "/ws/bridge"


class Uploader:
    """url: of the service's socket; the routes for uploads are beside it."""

    def __init__(self, url: str, token: str, clock: Clock, counters: Counters) -> None:
        scheme, _, rest = url.partition("://")
        base = f"{'https' if scheme == 'wss' else 'http'}://{rest.partition('?')[0].removesuffix(_SOCKET)}"
        self._url = f"{base}/api/upload/image"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._clock = clock
        self._counters = counters
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def pictures(self, contents: Sequence[bytes]) -> list[str]:
        """Ids of those that the service has taken. A message does not wait longer for the others than two attempts."""
        found = [await self._upload(content) or await self._again(content) for content in contents]
        return [one for one in found if one]

    async def _again(self, content: bytes) -> str:
        await self._clock.sleep(_AGAIN_AFTER)
        if one := await self._upload(content):
            return one
        self._counters.add("pictures_missing")
        return ""

    async def _upload(self, content: bytes) -> str:
        """Its id; empty if it was not taken."""
        if self._client is None:
            self._client = await asyncio.to_thread(httpx.AsyncClient, trust_env=False, timeout=_SECONDS)
        file = ("picture", content, "application/octet-stream")  # what it is, the service sees for itself
        try:
            answer = await self._client.post(self._url, headers=self._headers, files={"file": file})
            body: Any = answer.json() if answer.is_success else {}
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            log.warning("service: a picture was not taken (%s)", type(error).__name__)
            return ""
        if not answer.is_success:
            log.warning("service: a picture was not taken (HTTP %d)", answer.status_code)
        found = body.get("id") if isinstance(body, dict) else None
        return found if isinstance(found, str) else ""
