"""What people say to manage their own memories, in any client: `/记忆`, `/忘记 …`, `/help`.

A command shows and forgets what the person said, or what is about them, as far as it may be seen where they say it.
Admins of a group also manage the group's own memories (scope `group:<gid>`), not those of its members.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import yaml

from qqmem.memory.memories import Memories
from qqmem.memory.scope import Scope, View
from qqmem.memory.types import Memory
from qqmem.records import Sender

Language = Literal["zh", "en"]
Name = Literal["list", "forget", "confirm", "mute", "unmute", "open", "close", "export", "reset", "status", "help"]

SHOWN = 20
"""Most memories of a list."""
WAIT_SECONDS = 300.0
"""How long a question waits for its yes."""
EXPORT_CHARS = 100_000
"""Most characters of an export; a chat carries no files."""

_LONGEST_LINE = 60
_PAGE = 200
_ADMINS = ("owner", "admin")

_NAMES: Mapping[str, Name] = {
    "记忆": "list",
    "忘记": "forget",
    "别记": "mute",
    "记": "unmute",
    "公开": "open",
    "不公开": "close",
    "导出": "export",
    "重来": "reset",
    "状态": "status",
    "帮助": "help",
    "memories": "list",
    "forget": "forget",
    "dontremember": "mute",
    "remember": "unmute",
    "share": "open",
    "unshare": "close",
    "export": "export",
    "reset": "reset",
    "status": "status",
    "help": "help",
}
_WITH_WORDS = ("list", "forget")
_WITH_GROUP = (*_WITH_WORDS, "mute", "unmute")
_ALL, _YES = ("全部", "all"), ("确认", "確認", "yes")

_FRONT = re.compile(r"(?:\s*\[CQ:(?:at|reply),[^\]]*\])*\s*")
_AT = re.compile(r"\[CQ:at,qq=([^,\]]*)")
# A number or a keyword may stand right behind a Chinese name: who writes 忘记12 must not believe it forgotten.
_ENDS = r"(?=\s|$|[#＃\d]|全部|[确確][认認]|本群)"
_CHINESE = rf"(?:不公[开開]|公[开開]|[导導]出|[帮幫]助|[忘别別][记記]|[记記][忆憶]|[记記]|重[来來]|[状狀][态態]){_ENDS}"
_COMMAND = re.compile(rf"[/／]\s*({_CHINESE}|[a-z]+(?=\s|$))(.*)", re.DOTALL | re.IGNORECASE)
_GROUP = re.compile(rf"本群{_ENDS}|group(?=\s|$)", re.IGNORECASE)
_SIMPLIFIED = str.maketrans("記憶別開導幫來狀態", "记忆别开导帮来状态")
_NUMBERS = re.compile(r"#?\d{1,18}(?:[\s,、;#]+\d{1,18})*")


@dataclass(frozen=True, slots=True)
class Command:
    """words: what to look for, or numbers. group: of this group instead of one's own."""

    name: Name
    words: str = ""
    group: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Memories that are forgotten if the person says yes before `deadline` (of the clock)."""

    ids: tuple[int, ...]
    group: bool
    deadline: float


class Commands:
    """Answers commands. What waits for a yes is kept in memory only, one for each person in each conversation."""

    def __init__(
        self,
        memories: Memories,
        language: Language,
        clock: Callable[[], float] = time.monotonic,
        *,
        self_id: str = "",
    ) -> None:
        """Reads a file. self_id: the bot's own QQ number; what @-s only somebody else is no command then."""
        self._memories = memories
        self._clock = clock
        self._self_id = self_id
        self._texts: Mapping[str, str] = yaml.safe_load(
            (resources.files("qqmem") / "prompts" / f"commands.{language}.yaml").read_text("utf-8")
        )
        self._waiting: dict[tuple[str, str], _Waiting] = {}

    def parse(self, text: str) -> Command | None:
        """The command that `text` is, None for anything else. Codes that @ or quote may stand before it."""
        front = _FRONT.match(text)
        assert front is not None, "it also matches nothing"
        called = _AT.findall(front[0])
        if self._self_id and called and self._self_id not in called:
            return None
        found = _COMMAND.fullmatch(text, front.end())
        name = found and _NAMES.get(found[1].lower().translate(_SIMPLIFIED))
        return _command(name, found[2]) if found and name else None

    async def run(
        self, command: Command, conversation: str, sender: Sender, start_over: Callable[[], Awaitable[None]]
    ) -> str:
        """Do it, and say what was done; also what a person got wrong is said. Raises DatabaseError.

        start_over: the conversation begins anew.
        """
        waiting = self._waiting.pop((conversation, sender.id), None)
        if command.name == "help":
            return self._say("help")
        if command.name == "export":
            return await self._export(conversation, sender)
        if command.name == "status":
            return await self._status(conversation, sender)
        if command.name == "reset":
            if _group(conversation) is not None and sender.role not in _ADMINS:
                return self._say("reset_not_admin")
            await start_over()
            return self._say("reset")
        is_group = command.group or (command.name == "confirm" and waiting is not None and waiting.group)
        if is_group and (refusal := _refusal(conversation, sender)):
            return self._say(refusal)
        match command.name:
            case "list":
                return await self._list(command, conversation, sender)
            case "forget":
                return await self._forget(command, conversation, sender)
            case "confirm":
                return await self._confirm(waiting, conversation, sender)
            case name:
                return await self._choose(name, command.group, conversation, sender)

    async def _list(self, command: Command, conversation: str, sender: Sender) -> str:
        found = await self._theirs(command.group, conversation, sender, command.words)
        if not found:
            return self._none(command)
        head = "found" if command.words else _of("list", command.group)
        return "\n".join([self._say(head, n=len(found), words=_line(command.words)), *self._lines(found)])

    async def _forget(self, command: Command, conversation: str, sender: Sender) -> str:
        if not command.words:
            return self._say("forget_how")
        numbers = _numbers(command.words)
        is_all = command.words.lower() in _ALL
        words = "" if is_all or numbers else command.words
        found = await self._theirs(command.group, conversation, sender, words)
        if numbers:
            found = [memory for memory in found if memory.id in numbers]
        if not found:
            return self._none(Command("list", group=command.group) if is_all else command)
        if len(found) == 1:
            return await self._forgotten(found, sender)
        self._wait((conversation, sender.id), found, command.group)
        return "\n".join([*self._lines(found), self._say(_of("forget_ask", command.group), n=len(found))])

    async def _confirm(self, waiting: _Waiting | None, conversation: str, sender: Sender) -> str:
        if waiting is None or self._clock() > waiting.deadline:
            return self._say("nothing_waits")
        # Again only what is theirs: it may have changed since they were asked.
        theirs = await self._theirs(waiting.group, conversation, sender)
        ids = frozenset(waiting.ids)
        return await self._forgotten([memory for memory in theirs if memory.id in ids], sender)

    async def _forgotten(self, found: Sequence[Memory], sender: Sender) -> str:
        """Forget these, and say so."""
        if not found:
            return self._say("gone")
        ids = [memory.id for memory in found]
        gone = await self._memories.forget(ids, f"user:{sender.id}", "asked for in chat")
        along = len(set(gone).difference(ids))
        said = self._say("forgotten", line=_shown(found[0])) if len(ids) == 1 else ""
        said = said or self._say("forgotten_many", n=len(ids))
        return f"{said}\n{self._say('along', n=along)}" if along else said

    async def _choose(self, name: Name, group: bool, conversation: str, sender: Sender) -> str:
        choice: Literal["muted", "open"] = "muted" if name in ("mute", "unmute") else "open"
        party = conversation if group else f"user:{sender.id}"
        await self._memories.store.set_choice(party, choice, name in ("mute", "open"))
        return self._say(_of(name, group))

    async def _status(self, conversation: str, sender: Sender) -> str:
        """What the bot does for this person, here."""
        found = await self._theirs(False, conversation, sender)
        choices = {name: await self._memories.store.choices(name) for name in ("muted", "open")}
        is_muted = not choices["muted"].isdisjoint((f"user:{sender.id}", conversation))
        is_open = f"user:{sender.id}" in choices["open"]
        lines = ("status", "status_muted" if is_muted else "status_heard", "status_open" if is_open else "status_kept")
        return "\n".join(self._say(line, n=len(found)) for line in lines)

    async def _export(self, conversation: str, sender: Sender) -> str:
        if _group(conversation) is not None:
            return self._say("export_private")
        found = await self._theirs(False, conversation, sender)
        if not found:
            return self._say("none")
        lines = [self._say("export", n=len(found))]
        room = EXPORT_CHARS
        for memory in found:
            line = f"#{memory.id} {memory.valid_from.astimezone():%Y-%m-%d} {_harmless(memory.told)}"
            room -= len(line)
            if room < 0:
                lines.append(self._say("export_more", n=len(found) + 1 - len(lines)))
                break
            lines.append(line)
        return "\n".join(lines)

    async def _theirs(self, group: bool, conversation: str, sender: Sender, words: str = "") -> list[Memory]:
        """What this person manages here: facts first, the newest first. words: they must hold them."""
        place = _group(conversation)
        if group:
            assert place is not None, "refused before"
            found = await self._of_group(place, words)
        else:
            found = await self._memories.store.own(sender.id, View.of(conversation), words) if sender.id else []
        return sorted(found, key=lambda memory: (memory.kind != "fact", -memory.id))

    async def _of_group(self, group: str, words: str) -> list[Memory]:
        view, before, found = View.only(Scope("group", group=group)), None, []
        while page := await self._memories.store.page(view, _PAGE, before, state="searchable"):
            found += [memory for memory in page if words.casefold() in memory.text.casefold()]
            before = page[-1].id
        return found

    def _wait(self, who: tuple[str, str], found: Iterable[Memory], group: bool) -> None:
        now = self._clock()
        self._waiting = {key: one for key, one in self._waiting.items() if one.deadline >= now}
        self._waiting[who] = _Waiting(tuple(memory.id for memory in found), group, now + WAIT_SECONDS)

    def _lines(self, found: Sequence[Memory]) -> list[str]:
        lines = [_shown(memory) for memory in found[:SHOWN]]
        return [*lines, self._say("more", n=len(found) - SHOWN)] if len(found) > SHOWN else lines

    def _none(self, command: Command) -> str:
        if not command.words:
            return self._say(_of("none", command.group))
        name = "none_numbered" if command.name == "forget" and _numbers(command.words) else "none_found"
        return self._say(name, words=_line(command.words))

    def _say(self, name: str, **variables: object) -> str:
        return self._texts[name].format(**variables).strip()


def _command(name: Name, rest: str) -> Command | None:
    """The command of this name, None if what follows it does not fit."""
    # Half characters and NUL are in no memory, and nothing that stores or sends text takes them.
    words = " ".join(rest.encode("utf-8", "ignore").decode().replace("\0", "").split())
    group = _GROUP.match(words)
    if group:
        words = words[group.end() :].strip()
    if (group and name not in _WITH_GROUP) or (words and name not in _WITH_WORDS):
        return None
    if name == "forget" and words.lower() in _YES:
        return Command("confirm")
    return Command(name, words, group is not None)


def _numbers(words: str) -> Collection[int]:
    """The numbers of memories, if there is nothing but numbers."""
    plain = unicodedata.normalize("NFKC", words)
    return frozenset(map(int, re.findall(r"\d+", plain))) if _NUMBERS.fullmatch(plain) else frozenset()


def _refusal(conversation: str, sender: Sender) -> str:
    """Why this person may not manage a group's memories here, as the name of a text; "" if they may."""
    if _group(conversation) is None:
        return "not_group"
    return "" if sender.role in _ADMINS else "not_admin"


def _group(conversation: str) -> str | None:
    kind, _, id = conversation.partition(":")
    return id if kind == "group" else None


def _of(name: str, group: bool) -> str:
    return f"{name}_group" if group else name


def _shown(memory: Memory) -> str:
    return f"#{memory.id} {_line(memory.told)}"


def _line(text: str) -> str:
    line = _harmless(text)
    return line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 1] + "…"


def _harmless(text: str) -> str:
    """On one line, and without codes that would do something when the bot says them."""
    return " ".join(text.split()).replace("[CQ:", "［CQ:")
