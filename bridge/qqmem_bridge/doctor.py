"""Whether everything is ready, and what to do about what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from qqmem_bridge.clock import Clock
from qqmem_bridge.errors import BridgeError, CallError, NotConnected
from qqmem_bridge.napcat import reach
from qqmem_bridge.ncatbot import LICENCE
from qqmem_bridge.settings import Settings
from qqmem_bridge.wire import PROTOCOL

_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    state: Literal["ok", "warning", "wrong"]
    text: str


async def examine(settings: Settings, clock: Clock) -> AsyncIterator[Finding]:
    """Look at the settings, NapCat and the service; nothing is sent to any chat."""
    yield _lists(settings)
    try:
        await asyncio.to_thread(settings.data.mkdir, parents=True, exist_ok=True)
    except OSError as error:
        yield Finding("wrong", f"The folder {settings.data} cannot be made ({error.strerror}); set data to another.")
    async for finding in _napcat(settings, clock):
        yield finding
    yield await _service(settings)


def _lists(settings: Settings) -> Finding:
    allow = settings.allow
    if allow.everybody:
        return Finding("warning", "Everybody may talk to the bot (allow.everybody); meant for trials.")
    if not (allow.groups or allow.users or allow.admins):
        return Finding("wrong", "Nobody may talk to the bot; put groups and users into allow of bridge.yaml.")
    return Finding(
        "ok", f"{len(allow.groups)} groups and {len({*allow.users, *allow.admins})} users may talk to the bot."
    )


async def _napcat(settings: Settings, clock: Clock) -> AsyncIterator[Finding]:
    url = settings.napcat.url
    try:
        transport = reach(settings, clock, call_timeout=_PATIENCE)
    except BridgeError as error:
        yield Finding("wrong", str(error))
        return
    if settings.transport == "ncatbot":
        yield Finding("warning", LICENCE)
    running = asyncio.create_task(transport.run())
    first = asyncio.ensure_future(anext(aiter(transport.events())))
    limit = asyncio.ensure_future(clock.sleep(_PATIENCE))
    try:
        await asyncio.wait([running, first, limit], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        login = await transport.call("get_login_info", {})
        version = await transport.call("get_version_info", {})
        status = await transport.call("get_status", {})
    except NotConnected:
        yield Finding("wrong", f"No NapCat answers at {url}; enable its WebSocket server, or set napcat.url.")
    except BridgeError as error:
        yield Finding("wrong", str(error))
    except (CallError, AttributeError, TypeError) as error:
        yield Finding("wrong", f"What answers at {url} does not speak OneBot 11 ({error}).")
    else:
        yield Finding("ok", f"NapCat {version.get('app_version')} answers, logged in as {login.get('user_id')}.")
        if not status.get("online"):
            yield Finding("wrong", "The QQ account is offline; log in again in NapCat's WebUI.")
    finally:
        for task in (running, first, limit):
            task.cancel()
        await asyncio.gather(running, first, limit, return_exceptions=True)


async def _service(settings: Settings) -> Finding:
    """As a bridge of another name, so that one that runs is left alone."""
    headers = {"Authorization": f"Bearer {settings.token.get_secret_value()}"} if settings.token else {}
    hello = {
        "type": "hello",
        "protocol": PROTOCOL,
        "bridge": f"{settings.name}-doctor",
        "self_id": "10000",
        "last_acked": 0,
    }
    no_token = "The service does not accept the token; set QQMEM_BRIDGE_TOKEN to one with the scope bridge."
    try:
        async with (
            asyncio.timeout(_PATIENCE),
            connect(settings.service, additional_headers=headers, proxy=None) as socket,
        ):
            await socket.send(json.dumps(hello))
            welcome = json.loads(await socket.recv())
        if welcome.get("type") != "welcome":
            return Finding("wrong", f"The service answers {welcome.get('code') or 'nonsense'} instead of a welcome.")
        if welcome.get("protocol") != PROTOCOL:
            return Finding("wrong", "The service and this bridge are of different ages; update the older of them.")
    except InvalidStatus as error:
        status = error.response.status_code
        return Finding("wrong", no_token if status in (401, 403) else f"{settings.service} answers HTTP {status}.")
    except ConnectionClosed as error:
        code = error.rcvd.code if error.rcvd else 0
        return Finding("wrong", no_token if code in (1008, 4401, 4403) else "The service closed the connection.")
    except InvalidURI:
        return Finding("wrong", f"service is not an address such as ws://127.0.0.1:9999/ws/bridge: {settings.service}")
    except (OSError, TimeoutError, InvalidHandshake):
        return Finding("wrong", f"No service answers at {settings.service}; start it with: qqmem serve")
    except (ValueError, AttributeError):
        return Finding("wrong", f"What answers at {settings.service} is no qqmem service.")
    return Finding("ok", "The service answers.")
