"""What the bridge asks of QQ's side: raw OneBot 11 events, and calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

Event = dict[str, Any]
Segment = dict[str, Any]


class Transport(Protocol):
    """A connection that is kept up."""

    @property
    def connected(self) -> bool: ...

    @property
    def reconnects(self) -> int:
        """How often the connection was lost so far."""
        ...

    async def run(self) -> None:
        """Keep the connection up until cancelled. Raises Refused if QQ's side does not let us in."""
        ...

    def events(self) -> AsyncIterator[Event]:
        """What happens, in order. One `{"post_type": "meta_event", "meta_event_type": "connected"}` after each connect.

        Whoever reads must not call: answers come on the same connection.
        """
        ...

    async def call(self, action: str, params: Mapping[str, Any]) -> Any:
        """The `data` of the answer. Raises NotConnected, CallLost or CallFailed."""
        ...
