"""A WebSocket that is kept up: dialled, watched, and dialled again whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from qqmem_bridge.clock import Backoff, Clock
from qqmem_bridge.errors import NotConnected, Refused

log = logging.getLogger(__name__)


class Nonsense(Exception):
    """The other end does not speak what is expected; it may be another program, or not be ready yet."""


class Line:
    """One end of a connection.

    name: what the other end is called in the log.
    patience: seconds of silence after which the connection counts as dead; may be changed at any time.
    probe: what is sent after half of them, so that the other end is heard.
    no_token, no_address: the sentences for the operator if the token is refused, and if `url` cannot be dialled.
    """

    def __init__(
        self,
        name: str,
        url: str,
        token: str,
        clock: Clock,
        chance: random.Random | None,
        *,
        patience: float,
        probe: str,
        most_bytes: int,
        no_token: str,
        no_address: str,
    ) -> None:
        self._name = name
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._clock = clock
        self._backoff = Backoff(chance or random.Random())
        self.patience = patience
        self._probe = probe
        self._most_bytes = most_bytes
        self._no_token = no_token
        self._no_address = no_address
        self._socket: ClientConnection | None = None
        self._heard = 0.0
        self.connected = False
        """Whether the other end is there and talks as it should."""
        self.reconnects = 0

    async def keep_up(self, talk: Callable[[], Awaitable[None]], lost: Callable[[], None]) -> None:
        """Dial, talk, and do so again until cancelled. `lost` is called after each attempt.

        Raises Refused if coming back is of no use; `talk` may, too.
        """
        while True:
            try:
                await self._once(talk)
            except ConnectionClosed as error:
                log.warning("%s: the connection was closed (%s)", self._name, error.rcvd.code if error.rcvd else "cut")
            except InvalidStatus as error:
                if error.response.status_code in (401, 403):
                    raise self.refused() from error
                log.warning("%s: HTTP %d", self._name, error.response.status_code)
            except InvalidURI as error:
                raise Refused(f"{self._no_address}: {self._url}") from error
            except (OSError, InvalidHandshake, Nonsense) as error:
                log.warning("%s: not connected (%s)", self._name, type(error).__name__)
            finally:
                self.reconnects += self.connected
                self._socket, self.connected = None, False
                lost()
            await self._clock.sleep(next(self._backoff))

    def up(self) -> None:
        """The other end talks as it should: the connection counts, and the delays begin anew."""
        self.connected = True
        self._backoff.reset()

    async def recv(self) -> bytes:
        """The next frame, whatever its encoding. Raises ConnectionClosed."""
        raw = await self._dialled().recv(decode=False)
        self._heard = self._clock.now()
        return raw

    async def send(self, text: str) -> None:
        """Raises NotConnected if nothing has left, and ConnectionClosed if some of it may have."""
        await self._dialled().send(text)

    def _dialled(self) -> ClientConnection:
        if self._socket is None:
            raise NotConnected(self._name)
        return self._socket

    def refused(self) -> Refused:
        """The other end does not accept the token."""
        return Refused(self._no_token)

    async def _once(self, talk: Callable[[], Awaitable[None]]) -> None:
        async with connect(
            self._url,
            additional_headers=self._headers,
            max_size=self._most_bytes,
            ping_interval=None,  # silence is watched for here, by the clock that is handed in
            close_timeout=1,
            proxy=None,
        ) as socket:
            self._socket, self._heard = socket, self._clock.now()
            watch = asyncio.create_task(self._watch(socket))
            try:
                await talk()
            finally:
                watch.cancel()

    async def _watch(self, socket: ClientConnection) -> None:
        """Cut a connection that is silent for too long: the other end may be gone without a word."""
        while True:
            await self._clock.sleep(self.patience / 8)
            silent = self._clock.now() - self._heard
            if silent > self.patience:
                log.warning("%s: silent for %.0f s, connecting anew", self._name, silent)
                socket.transport.abort()
                return
            if silent > self.patience / 2:
                with contextlib.suppress(ConnectionClosed):
                    await socket.send(self._probe)
