"""`qqmem serve`: one process with one model, from the port it takes to the exit code it leaves with."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from qqmem.app import create_app
from qqmem.engine.types import Model
from qqmem.errors import SettingsError
from qqmem.listening import Server
from qqmem.settings import Settings, is_loopback

log = logging.getLogger(__name__)


def run(settings: Settings, folder: Path) -> int:
    """Serve until told to stop. folder: of the model. Returns the exit code: 0, or 1 if the model has failed."""
    settings.check_access()
    with listen(settings.server.host, settings.server.port) as listener:
        return asyncio.run(_serve(settings, folder, listener))


async def _serve(settings: Settings, folder: Path, listener: socket.socket) -> int:
    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(settings, load_model=model_loader(settings, folder), model_folder=folder, on_failure=fail)
    server = Server(app, settings, log_config=None, access_log=False)
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    log.info("serving on http://%s:%d, model %s, data in %s", host, settings.server.port, settings.model, settings.data)
    await server.serve([listener])
    return 1 if failures else 0


def model_loader(settings: Settings, folder: Path) -> Callable[[], Model]:
    """Loads the model as the settings say, on whichever thread calls it."""
    from qqmem.engine.model import load_model  # imports torch, which takes seconds: not for a port that is taken

    engine = settings.engine
    return partial(
        load_model,
        folder,
        device=engine.device,
        dtype=engine.dtype,
        int8=engine.int8,
        threads=engine.threads,
        max_context=engine.max_context,
        kv_cache_mb=engine.kv_cache_mb,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises SettingsError."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[4][:2], family=address[0], backlog=2048)
    except (OSError, OverflowError) as error:
        elsewhere = "choose another with --port" if is_loopback(host) else "choose others with --host and --port"
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{host}:{port} cannot be listened on ({reason}); {elsewhere}.") from error
