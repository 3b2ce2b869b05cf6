"""What the commands that speak with a running service share: options, the client, and what they print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from qqmem.errors import QqmemError
from qqmem.settings import Settings, load_settings
from qqmem.terminal import ConnectionFailed

out = Console(highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file; default qqmem.yaml, if it is there.")
]
Url = Annotated[str | None, typer.Option(help="The service; default the one of the settings.")]
Token = Annotated[str | None, typer.Option(envvar="QQMEM_TOKEN", help="Bearer token; default one of the settings.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON as the service answers it, for scripts.")]


class Refused(QqmemError):
    """The service does not do what it was asked for."""

    code = "refused"


@contextmanager
def connected(config: Path | None, url: str | None, token: str | None) -> Iterator[httpx.Client]:
    """A client of the service. Raises ConnectionFailed and Refused, also while it is used."""
    settings = load_settings(config)
    headers = {"Authorization": f"Bearer {found}"} if (found := token or _token(settings, url)) else {}
    base = url or _address(settings)
    try:
        # No time limit for reading: an import is answered when its last line is stored.
        timeout = httpx.Timeout(30, read=None)
        with httpx.Client(base_url=base, headers=headers, timeout=timeout, trust_env=False) as client:
            yield client
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConnectionFailed(f"{base} is not an address such as http://127.0.0.1:9999") from error
    except httpx.TransportError as error:
        raise ConnectionFailed(f"No service answers at {base}; start it with: qqmem serve") from error


def _address(settings: Settings) -> str:
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    return f"http://{host}:{settings.server.port}"


def _token(settings: Settings, url: str | None) -> str | None:
    """One of the settings that may do everything, for the service of the settings only."""
    tokens = [] if url else [token for token in settings.tokens if "admin" in token.scopes]
    return tokens[0].token.get_secret_value() if tokens else None


def answer_of(answer: httpx.Response) -> Any:
    """The JSON body of an answer. Raises Refused, in the words of the service."""
    return granted(answer).json()


def granted(answer: httpx.Response) -> httpx.Response:
    """An answer that is no error. Raises Refused, in the words of the service."""
    if answer.is_success:
        return answer
    try:
        said = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = f"What answers at {answer.url} is no qqmem service, or an older one (HTTP {answer.status_code})."
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        said = f"{said} Give it with --token or QQMEM_TOKEN."
    raise Refused(said)


def print_json(body: Any) -> None:
    """On the standard output, for scripts."""
    sys.stdout.write(json.dumps(body, ensure_ascii=False, indent=2) + "\n")
