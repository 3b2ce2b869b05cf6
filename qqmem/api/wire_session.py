"""The shapes of /api/session."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field, SecretStr

from qqmem.api.wire import In, Out, example
from qqmem.settings import Scope


class Login(In):
    """A token of the settings."""

    model_config = ConfigDict(json_schema_extra=example(token="the-token-of-the-settings"))
    token: SecretStr = Field(min_length=1, max_length=4096)


class Session(Out):
    """Who asks. required: whether a token is needed at all. name, scopes: of the token. expires_at: of the cookie.

    language, bot: the settings chat.language, and what the bot is called.
    """

    model_config = ConfigDict(
        json_schema_extra=example(
            required=True,
            authenticated=True,
            name="admin",
            scopes=["admin"],
            expires_at="2026-11-29T09:00:00Z",
            language="zh",
            bot="小忆",
            version="0.1.0",
        )
    )
    required: bool
    authenticated: bool
    name: str | None = None
    scopes: tuple[Scope, ...] | None = None
    expires_at: datetime | None = None
    language: Literal["zh", "en"]
    bot: str
    version: str
