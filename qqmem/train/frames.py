"""The chats in which a message is said: the bot's own frame, as it will serve, and ordinary conversations. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from qqmem.engine.prompt import Kind, PromptBuilder, Said
from qqmem.engine.types import Tokenizer
from qqmem.train.draft import Draft
from qqmem.train.records import Chat, Memory, Role, Run

HELLO = "在吗"
_EARLIER_CHARS = 60
"""Of each message of a conversation that stands before another, as what was said a moment ago."""
_EARLIER_TURNS = 8
_AFTER_ANOTHER = 0.3
"""The share of messages that come after talk of another matter."""
_AFTER_RECALLS = 0.25
"""The share of those that come after others for which the bot had to remember something: who has been answered out of
memory asks on, and the answers stand in the history without their recalls, as if there had been no need of any."""
_RECALLS = 2
"""So many of them at most."""
_STRANGERS = ("小北", "阿青", "木木", "Sam", "十七", "老高", "Lily")
_START = datetime(2026, 1, 1, tzinfo=UTC)
_ME = ("我", "咱", "俺", " i ", " me ", " my ", " mine ")


class Frames:
    """Of one run."""

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self.run = run
        self.tokenizer = tokenizer
        self._builder = PromptBuilder(tokenizer, UTC)
        self._shared: Mapping[Kind, int] = {kind: self._common(kind) for kind in ("private", "group")}
        self._people = sorted({(one.name, one.subject) for one in run.memories if one.name and one.subject})
        written = [(*before, ("user", text), ("assistant", reply)) for text, reply, before in run.negatives if before]
        self._earlier: Sequence[Chat] = [chat for one in (*run.sft, *written) if (chat := _short(one))]
        lead = run.prompts.phrase("lead")
        self._reminded: Sequence[tuple[str, Chat]] = [
            (one.text, (("user", cue.text), ("assistant", cue.reply or lead + one.text.removeprefix(f"{one.name}："))))
            for one in run.memories
            for cue in one.cues
            if cue.kind == "question"
        ]
        self.messages = [one.text for one in run.negatives if not one.before] or [
            cue.text for one in run.memories for cue in one.cues if cue.kind != "thought"
        ]

    def stranger(self, draw: random.Random) -> tuple[str, str]:
        """Name and QQ number of somebody."""
        return draw.choice(_STRANGERS), str(draw.randint(10**8, 10**10))

    def speaker(self, memory: Memory, text: str, draw: random.Random, *, tells: bool = True) -> tuple[str, str]:
        """Name and QQ number of who says this: `I` is whom the memory is about, about others anyone may ask."""
        own = (memory.name, memory.subject or str(draw.randint(10**8, 10**10)))
        is_own = tells or any(me in f" {text.casefold()} " for me in _ME) or draw.random() < 0.5
        if memory.name and is_own:
            return own
        return draw.choice([*self._people, self.stranger(draw)])

    def framed(
        self, scope: str, text: str, speaker: tuple[str, str], draw: random.Random, before: Chat = ()
    ) -> tuple[Draft, int]:
        """The bot's own frame: its system prompt, what was said before, sometimes of another matter, the message."""
        kind, _, place = scope.partition(":")
        where: Kind = "private" if kind in ("user", "global") else "group"
        time = _START + timedelta(minutes=draw.randrange(365 * 24 * 60))
        earlier = time
        if not before and self._earlier and draw.random() < _AFTER_ANOTHER:
            earlier = time - timedelta(minutes=draw.randrange(1, 60))
            before = draw.choice(self._earlier)
        said = [
            Said(n, "user", *speaker, earlier, one) if role == "user" else Said(n, "assistant", "", "", earlier, one)
            for n, (role, one) in enumerate(before)
        ]
        said.append(Said(len(before), "user", *speaker, time, text))
        system = self._system(where, *speaker, place.rpartition("@")[2] or "1")
        ids = self._builder.build(system, said, 1 << 30, 1 << 30, 0).ids
        return Draft(list(ids[: self._shared[where]]), list(ids[self._shared[where] :]), [], []), self._shared[where]

    def reminded(self, memory: Memory, draw: random.Random) -> Chat:
        """What was asked a moment ago about other memories, and answered; mostly nothing."""
        others = [chat for text, chat in self._reminded if text != memory.text]
        if not others or draw.random() >= _AFTER_RECALLS:
            return ()
        asked = draw.sample(others, min(len(others), draw.randint(1, _RECALLS)))
        return tuple(said for chat in asked for said in chat)

    def ordinary(self, draw: random.Random, most: int, chats: Sequence[Chat] = ()) -> tuple[Draft, int, str]:
        """An ordinary conversation up to a turn of the assistant, and that turn: as it is, or in the bot's frame."""
        if not (chats := chats or self.run.sft):
            text = draw.choice(self.messages or [HELLO])
            return *self.framed("global", text, self.speaker(Memory(""), text, draw), draw), ""
        chat = draw.choice(chats)
        turns = [n for n, (role, _) in enumerate(chat) if role == "assistant" and n]
        n = draw.choice(turns or [len(chat) - 1])
        before, reply = chat[:n], chat[n][1]
        if len(before) == 1 and before[0][0] == "user" and draw.random() < 0.5:
            speaker = self.speaker(Memory(""), before[0][1], draw)
            return *self.framed("global", before[0][1], speaker, draw), reply
        ids = self.tokenizer.render(_bare(before))
        return Draft([], ids[max(0, len(ids) - most) :], [], []), 0, reply

    def _system(self, kind: Kind, name: str, qq: str, group: str) -> str:
        variables = {
            "bot_name": self.run.bot_name,
            "user_name": name,
            "user_id": qq,
            "group_name": group,
            "group_id": group,
        }
        thinks = self.tokenizer.thinks
        return self.run.prompts.system(kind, variables, silence=kind == "group" and thinks, actions=thinks)

    def _common(self, kind: Kind) -> int:
        """How many tokens all prompts of this kind begin with."""
        one, other = (
            self.tokenizer.render([("system", self._system(kind, name, *numbers)), ("user", name)])
            for name, *numbers in (("A", "1", "2"), ("乙", "9", "8"))
        )
        same = next(n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        return max(0, same - 2)  # the tokens at the edge may merge with what follows


def _short(chat: Chat) -> Chat:
    """What was said in a short conversation; nothing of any other."""
    said = tuple((role, text) for role, text in _bare(chat) if role != "system")
    is_short = 1 < len(said) <= _EARLIER_TURNS and all(0 < len(text) <= _EARLIER_CHARS for _, text in said)
    return said if is_short and said[-1][0] == "assistant" else ()


def _bare(chat: Chat) -> list[tuple[Role, str]]:
    """Without the thoughts of earlier turns, which no template shows."""
    return [(role, text.rpartition("</think>")[2].strip() if role == "assistant" else text) for role, text in chat]
