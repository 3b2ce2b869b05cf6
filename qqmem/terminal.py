"""`qqmem chat`: a conversation in the terminal, over the service's WebSocket.

Ctrl-C stops the reply being written; a second one, or one at the prompt, leaves.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from qqmem.errors import QqmemError

with contextlib.suppress(ImportError):
    import readline  # noqa: F401  gives input() its line editing; absent on Windows

_NOTES = {
    "no_reply": "（没有回复 · stays silent）",
    "superseded": "（有了新消息 · superseded）",
    "cancelled": "（已停下 · stopped）",
}


class ConnectionFailed(QqmemError):
    """The service cannot be reached, or has gone."""

    code = "connection"


@dataclass
class Terminal:
    """One conversation on one connection. think: also show what the model thinks."""

    url: str
    token: str | None
    conversation: str
    name: str
    think: bool
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))

    def run(self) -> None:
        """Talk until the person leaves. Raises ConnectionFailed."""
        with self._connected() as socket:
            self.console.print("Ctrl-C 停下回复，再按一次离开 · stops a reply, twice leaves", style="dim")
            with contextlib.suppress(KeyboardInterrupt, EOFError):
                while True:
                    if text := self.console.input("[bold cyan]你[/] > ").strip():
                        self._turn(socket, text)
            self.console.print()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[ClientConnection]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with connect(self.url, additional_headers=headers, proxy=None) as socket:
                yield socket
        except (OSError, TimeoutError) as error:
            raise ConnectionFailed(f"No service answers at {self.url}; start one with: qqmem serve") from error
        except InvalidURI as error:
            raise ConnectionFailed(
                f"{self.url} is not a WebSocket address such as ws://127.0.0.1:9999/ws/chat"
            ) from error
        except InvalidHandshake as error:
            raise ConnectionFailed(
                f"The service at {self.url} does not let us in ({error}); give its token with --token or QQMEM_TOKEN."
            ) from error
        except ConnectionClosed as error:
            raise ConnectionFailed("The service has closed the connection; what was said is stored.") from error

    def _turn(self, socket: ClientConnection, text: str) -> None:
        """Send one message and show what comes back, until the turn has ended."""
        self._send(socket, type="message", text=text, sender={"id": "terminal", "name": self.name})
        self.console.print("[bold magenta]她[/] > ", end="")
        stopped = False
        while True:
            frame: dict[str, Any] | None = None
            try:
                frame = json.loads(socket.recv())
                self._show(frame)
            except KeyboardInterrupt:  # while waiting, or while drawing
                if stopped:
                    raise
                stopped = True
                self._send(socket, type="cancel")
            if frame is not None and frame["type"] in ("turn.end", "error"):
                return

    def _send(self, socket: ClientConnection, **frame: Any) -> None:
        socket.send(json.dumps({"conversation": self.conversation, **frame}, ensure_ascii=False))

    def _show(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "token" if frame["channel"] == "reply":
                self.console.out(frame["text"], end="")
            case "token" if self.think:
                self.console.out(frame["text"], end="", style="dim")
            case "turn.end":
                self._show_end(frame)
            case "error":
                self.console.out(frame["error"]["message"], style="red")

    def _show_end(self, frame: dict[str, Any]) -> None:
        if frame["outcome"] == "failed":
            self.console.out((frame.get("error") or {}).get("message", "failed"), end="", style="red")
        self.console.print(_NOTES.get(frame["outcome"], ""), style="dim")
        for action in frame.get("actions") or ():
            self.console.out(f"  · {action}", style="dim")
