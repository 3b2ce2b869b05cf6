"""Whose a memory is and where it may surface. Pure; the store turns a View into the conditions of its queries."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from qqmem.errors import InvalidRequest

_ID = "[0-9A-Za-z_-]{1,64}"
_SCOPE = re.compile(
    f"(?P<global>global)|user:(?P<user>{_ID})|group:(?P<group>{_ID})|member:(?P<member>{_ID})@(?P<place>{_ID})"
)
_CONVERSATION = re.compile(f"(?P<kind>private|group):(?P<id>{_ID})")

_NO_SCOPE = "There is no such scope; write user:<qq>, group:<group id>, member:<qq>@<group id> or global."
_NO_CONVERSATION = "There is no such conversation; write private:<qq> or group:<group id>."


@dataclass(frozen=True, slots=True)
class Scope:
    """user: said in private. group: of a whole group. member: said by somebody in a group. global: for everybody.

    owner: the QQ number (user, member). group: the group's id (group, member).
    """

    kind: Literal["user", "group", "member", "global"]
    owner: str = ""
    group: str = ""

    @classmethod
    def parse(cls, text: str) -> Scope:
        """From `user:<qq>`, `group:<gid>`, `member:<qq>@<gid>` or `global`. Raises InvalidRequest."""
        found = _SCOPE.fullmatch(text)
        if found is None:
            raise InvalidRequest(_NO_SCOPE)
        if found["user"]:
            return cls("user", owner=found["user"])
        if found["group"]:
            return cls("group", group=found["group"])
        if found["member"]:
            return cls("member", found["member"], found["place"])
        return cls("global")

    def __str__(self) -> str:
        owner = self.group if self.kind == "group" else self.owner
        place = f"@{self.group}" if self.kind == "member" else ""
        return f"{self.kind}:{owner}{place}" if owner else self.kind

    @property
    def holder(self) -> str:
        """Who has a say in it: the person wherever it was said, else the group, else `global`."""
        return f"user:{self.owner}" if self.owner else str(self)


def said_in(conversation: str, speaker: str) -> Scope:
    """The scope of what `speaker` says there. Raises InvalidRequest: no such conversation or speaker can be."""
    kind, id = _conversation(conversation)
    return Scope.parse(f"user:{id}" if kind == "private" else f"member:{speaker}@{id}")


@dataclass(frozen=True, slots=True)
class View:
    """What may be seen.

    scopes: exactly these. owner: also every `member:<owner>@*`. group: also every `member:*@<group>`.
    """

    scopes: frozenset[str]
    owner: str | None = None
    group: str | None = None
    everything: bool = False

    @classmethod
    def of(cls, conversation: str, opened: Collection[str] = ()) -> View:
        """What may surface there. Raises InvalidRequest.

        opened: QQ numbers of those in this turn who allow their private memories in groups.
        """
        kind, id = _conversation(conversation)
        if kind == "private":
            return cls(frozenset({f"user:{id}", "global"}), owner=id)
        return cls(frozenset({f"group:{id}", "global", *(f"user:{qq}" for qq in opened)}), group=id)

    @classmethod
    def only(cls, scope: Scope) -> View:
        return cls(frozenset({str(scope)}))

    @classmethod
    def all(cls) -> View:
        return cls(frozenset(), everything=True)

    def sees(self, scope: Scope) -> bool:
        if self.everything or str(scope) in self.scopes:
            return True
        return scope.kind == "member" and (scope.owner == self.owner or scope.group == self.group)


def _conversation(text: str) -> tuple[str, str]:
    found = _CONVERSATION.fullmatch(text)
    if found is None:
        raise InvalidRequest(_NO_CONVERSATION)
    return found["kind"], found["id"]
