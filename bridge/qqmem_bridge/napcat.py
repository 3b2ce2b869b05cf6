"""How NapCat is reached: by the transport that the settings name."""

from __future__ import annotations

import random

from qqmem_bridge.clock import Clock
from qqmem_bridge.ncatbot import NcatBot
from qqmem_bridge.onebot import OneBot
from qqmem_bridge.settings import Settings
from qqmem_bridge.transport import Transport


def reach(
    settings: Settings, clock: Clock, *, call_timeout: float = 30.0, chance: random.Random | None = None
) -> Transport:
    """Not connected yet. Raises SettingsError if it needs a package that is not there."""
    kind = NcatBot if settings.transport == "ncatbot" else OneBot
    token = settings.napcat.token.get_secret_value() if settings.napcat.token else ""
    return kind(settings.napcat.url, token, clock, call_timeout=call_timeout, chance=chance)
