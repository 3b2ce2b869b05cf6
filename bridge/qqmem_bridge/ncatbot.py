"""QQ by way of ncatbot: its adapter is shown the events and its API makes the calls, on the connection of `OneBot`.

ncatbot's licence forbids commercial use. It is an optional package, `qqmem-bridge[ncatbot]`; nothing of it is in this
program. Its client is left out: that one asks questions on the terminal, writes its settings with the token into the
working folder, stops the event loop while it connects anew, gives up after 15 seconds, and waits on threads.
"""

from __future__ import annotations

import logging
import os
import random
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from qqmem_bridge.clock import Clock
from qqmem_bridge.errors import SettingsError
from qqmem_bridge.onebot import OneBot, told
from qqmem_bridge.transport import Event

log = logging.getLogger(__name__)

_PACKAGE = "ncatbot"
_VERSION = "4.4.1.post1"
_PIP = f"pip install ncatbot=={_VERSION}"
LICENCE = (
    f"ncatbot {_VERSION} is under the NcatBot Non-Commercial License: no commercial use without its authors' leave."
)


class NcatBot:
    """The connection, as handlers that were written for ncatbot know it.

    adapter: what hangs on its `event_callback` is called with ncatbot's event classes; it may await `api`.
    api: ncatbot's BotAPI, the one of `event.reply()` too.

    The bridge takes each event as it came: those classes leave fields out, and refuse a message with a segment that
    they do not know.
    """

    def __init__(
        self, url: str, token: str, clock: Clock, *, call_timeout: float = 30.0, chance: random.Random | None = None
    ) -> None:
        """Raises SettingsError if the package is not there."""
        self._connection = OneBot(url, token, clock, call_timeout=call_timeout, chance=chance)
        adapter, api, status = imported()
        self.adapter = adapter()
        self.api = status.global_api = api(self._ask)
        log.warning(LICENCE)

    @property
    def connected(self) -> bool:
        return self._connection.connected

    @property
    def reconnects(self) -> int:
        return self._connection.reconnects

    async def run(self) -> None:
        await self._connection.run()

    async def events(self) -> AsyncIterator[Event]:
        async for event in self._connection.events():
            try:
                await self.adapter._handle_event(event)
            except Exception:  # as its own loop does with what it cannot read
                log.debug("ncatbot cannot read a %s", event.get("post_type"))
            yield event

    async def call(self, action: str, params: Mapping[str, Any]) -> Any:
        return told(action, await self.api.async_callback(f"/{action}", dict(params)))

    async def _ask(self, path: str, params: Mapping[str, Any] | None = None) -> Event:
        return await self._connection.ask(path.strip("/"), params or {})


@cache
def imported() -> tuple[Any, Any, Any]:
    """Adapter, BotAPI and status of ncatbot; nothing else in the process changes. Raises SettingsError."""
    try:
        if (found := metadata.version(_PACKAGE)) != _VERSION:
            raise SettingsError(
                f"transport: ncatbot needs version {_VERSION} of its package, and {found} is installed: {_PIP}"
            )
        with _nothing_touched():
            from ncatbot.core.adapter import Adapter
            from ncatbot.core.api import BotAPI
            from ncatbot.utils import status
    except (metadata.PackageNotFoundError, ImportError) as error:
        raise SettingsError(
            f"transport: ncatbot needs a package that is not for commercial use: {_PIP} (transport: onebot needs none)."
        ) from error
    for name in status.get_registered_loggers():
        logging.getLogger(name).disabled = True  # they tell what people wrote
    return Adapter, BotAPI, status


@contextmanager
def _nothing_touched() -> Iterator[None]:
    """Put back what importing ncatbot changes: handlers, level and class of loggers; its log files and settings."""
    root, kind = logging.getLogger(), logging.getLoggerClass()
    level, handlers = root.level, list(root.handlers)
    with tempfile.TemporaryDirectory(prefix="qqmem-bridge-") as scratch:
        settings = Path(scratch, "ncatbot.yaml")
        settings.write_text("{}", "utf-8")  # without any it complains
        places = {"LOG_FILE_PATH": scratch, "NCATBOT_CONFIG_PATH": str(settings)}
        before = {name: os.environ.get(name) for name in places}
        os.environ.update(places)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
            for handler in set(root.handlers).difference(handlers):
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)
            logging.setLoggerClass(kind)
