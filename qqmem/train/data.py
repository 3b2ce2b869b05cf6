"""From the records of a run to examples: which tokens, which of them are learned, where a memory's vector enters.

Pure: no torch, no clock; the same seed and epoch make the same examples, so that a run can go on anywhere.

What is learned at a token is named by its part. `ask`: that the turn opens with a recall, as its first token decides;
`open`: the rest of the opening; `text`: the memory, read from its vector, and `</recall>`; `reply`: how the turn goes
on; `chat`: ordinary turns; "" is not learned. The pad never is: it is put there, not written.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Literal

from qqmem.engine.prompt import Kind, PromptBuilder, Said
from qqmem.engine.types import RecallTokens, Tokenizer
from qqmem.train.draft import Draft
from qqmem.train.records import Chat, Cue, Memory, Run, plain

PARTS = ("ask", "open", "text", "reply", "chat")

UNSEEN = 0.15
"""Examples with a vector that no memory has, for each that reads a memory: new memories are to look familiar."""
_CUES = 3
"""Of a memory in one epoch of stage 1."""
_CHAT_TOKENS = 256
"""Of an ordinary turn that is read beside others; a longer one says no more about how the model writes."""
_EXCHANGE_CHARS = 60
"""Of each side of a conversation that stands before a message, as what was said a moment ago."""
_STRANGERS = ("小北", "阿青", "木木", "Sam", "十七", "老高", "Lily")
_HELLO = "在吗"
_START = datetime(2026, 1, 1, tzinfo=UTC)
_ME = ("我", "咱", "俺", " i ", " me ", " my ", " mine ")


@dataclass(frozen=True, slots=True)
class Example:
    """One text.

    kind: query: looks for a memory. recall: a turn that needs one and goes on with it. foreign: a memory comes up where
        none is needed. chat: an ordinary turn. quiet: a message that needs no memory, up to where the bot would write.
    ids: tokens. parts: for each token the part as which it is learned.
    shared: so many of the first tokens are the same in every example of its frame.
    pad: place of the pad. mix: what enters there, as weights of rows of the values.
    query: place of the `<recall>` whose state looks for the memories `positives`; -1 for none.
    keep: places from which the next token is to stay as likely as in the base.
    """

    kind: Literal["query", "recall", "foreign", "chat", "quiet"]
    ids: tuple[int, ...]
    parts: tuple[str, ...]
    shared: int = 0
    pad: int = -1
    mix: tuple[tuple[int, float], ...] = ()
    query: int = -1
    positives: tuple[int, ...] = ()
    keep: tuple[int, ...] = ()


class Examples:
    """Writes the examples of one run.

    close: tokens that end the thinking. end: the token that ends a turn. max_tokens: of one example; a memory that is
    longer by itself stays whole.
    """

    def __init__(self, run: Run, tokenizer: Tokenizer, close: Sequence[int], end: int, max_tokens: int = 1024) -> None:
        assert tokenizer.recall is not None, "the model has rows for the tokens of recalls"
        self.run = run
        self.tokens: RecallTokens = tokenizer.recall
        self.tokenizer = tokenizer
        self._close = list(close)
        self._end = end
        self._max = max_tokens
        self._builder = PromptBuilder(tokenizer, UTC)
        self._guide = run.prompts.phrase("guide")
        self._lead = run.prompts.phrase("lead")
        self._shared: Mapping[Kind, int] = {kind: self._common(kind) for kind in ("private", "group")}
        self._rows = self._same()
        people = {(one.name, one.subject) for one in run.memories if one.name and one.subject}
        self._people = sorted(people)
        self._messages = [text for text, _ in run.negatives] or [
            cue.text for one in run.memories for cue in one.cues if cue.kind != "thought"
        ]
        self._exchanges = [found for chat in run.sft if (found := _exchange(chat))]
        self._told = [(text, "", row) for row, one in enumerate(run.memories) for text in _tellings(one)]

    # --- what an epoch shows

    def stage1(self, epoch: int, *, chat: int) -> list[Example]:
        """Some cues of every memory, in turn, and `chat` ordinary turns for each 32 of them; shuffled."""
        draw = self._draw("stage1", epoch)
        cues = [(row, cue) for row, one in enumerate(self.run.memories) for cue in _in_turn(one.cues, epoch)]
        examples = [self.query(row, cue, draw) for row, cue in cues]
        if self.run.sft:
            examples += [self.chat(draw, _CHAT_TOKENS) for _ in range(ceil(len(cues) * chat / 32))]
        draw.shuffle(examples)
        return examples

    def held_out(self) -> list[Example]:
        """The cues that are kept for tests, as queries."""
        draw = self._draw("held out", 0)
        memories = enumerate(self.run.memories)
        return [self.query(row, cue, draw) for row, one in memories for cue in one.held_out]

    @property
    def opening(self) -> int:
        """How many tokens open a turn with a recall, by itself."""
        return len(self._unasked()) + 1

    def asking(self, row: int, draw: random.Random) -> tuple[int, ...]:
        """Tokens up to `<recall>` in a turn where this memory may come, behind a cue if it has any."""
        memory = self.run.memories[row]
        cues = [*memory.held_out, *memory.cues] or [Cue("source", _HELLO)]
        return self.query(row, next((cue for cue in cues if cue.kind == "question"), cues[0]), draw).ids

    def unopened(self, row: int, cue: Cue, draw: random.Random) -> tuple[int, ...]:
        """A cue up to where the turn begins."""
        draft, shared = self._cued(row, cue, draw)
        return self._example("query", draft, shared).ids

    def alone(self, text: str, draw: random.Random) -> tuple[int, ...]:
        """Somebody's message in private, up to where the turn begins."""
        speaker = (draw.choice(_STRANGERS), str(draw.randint(10**8, 10**10)))
        return self._example("quiet", *self._framed("global", text, speaker, draw)).ids

    def text_queries(self) -> list[Example]:
        """`text<recall>` of every memory: what stage 1 is not, for comparison."""
        examples = []
        for row, memory in enumerate(self.run.memories):
            ids = (*self.tokenizer.encode(memory.text), self.tokens.open)
            examples.append(Example("query", ids, ("",) * len(ids), query=len(ids) - 1, positives=self._alike(row)))
        return examples

    def stage2(self, epoch: int, *, chat: float, foreign: float = 0.5) -> list[Example]:
        """Every memory once, in its own turn or under a foreign one; shuffled.

        foreign: share of the latter, by tokens. chat: share of ordinary turns in all tokens. Messages that need no
        memory come in besides, as many as recalls.
        """
        draw = self._draw("stage2", epoch)
        rows = list(range(len(self.run.memories)))
        draw.shuffle(rows)
        seen = [(row, False) for row in rows]
        unseen = [(row, True) for row in draw.sample(rows, ceil(len(rows) * UNSEEN))]
        examples: list[Example] = []
        num: dict[str, int] = defaultdict(int)
        for row, is_new in seen + unseen:
            # Whichever kind has had less of its share so far, as far as there are cues.
            own = num["recall"] * foreign <= num["foreign"] * (1 - foreign) and self.run.memories[row].cues
            examples.append(self.recall(row, draw, new=is_new) if own else self.foreign(row, draw, new=is_new))
            num[examples[-1].kind] += len(examples[-1].ids)
        quiet = sum(example.kind == "recall" for example in examples)
        examples += [self.quiet(draw) for _ in range(quiet if self.run.negatives or self._told else 0)]
        total = sum(len(example.ids) for example in examples)
        while self.run.sft and num["chat"] < chat * (total + num["chat"]):
            examples.append(self.chat(draw, self._max))
            num["chat"] += len(examples[-1].ids)
        draw.shuffle(examples)
        return examples

    def _draw(self, what: str, epoch: int) -> random.Random:
        return random.Random(f"{self.run.seed}/{what}/{epoch}")

    # --- one example

    def query(self, row: int, cue: Cue, draw: random.Random) -> Example:
        """A cue up to `<recall>`, whose state is to find the memory. It is asked for where someone asks, not tells."""
        draft, shared = self._cued(row, cue, draw)
        place = self._open(draft, cue, asked=cue.kind != "source")
        return self._example("query", draft, shared, query=place, positives=self._cued_rows(row, cue))

    def recall(self, row: int, draw: random.Random, *, new: bool = False) -> Example:
        """A turn that needs a memory: it is asked for, read, and the reply goes on. new: as one that nobody trained."""
        cue = draw.choice(self.run.memories[row].cues)
        draft, shared = self._cued(row, cue, draw)
        place = self._open(draft, cue, asked=cue.kind != "source")
        pad = self._read(draft, row, new=new)
        reply = cue.reply
        if cue.kind != "source":
            if not reply and self.run.memories[row].kind == "fact":
                reply = self._lead + self.run.memories[row].text
            draft.add(self._close, "reply")
            # Without a reply of our own, the way it begins.
            draft.add(self.tokenizer.encode(reply or self._lead), "reply")
            draft.add([self._end] if reply else [], "reply")
        return self._example(
            "recall",
            draft,
            shared,
            query=place,
            positives=self._cued_rows(row, cue),
            pad=pad,
            mix=self._mix(row, draw, new=new),
        )

    def foreign(self, row: int, draw: random.Random, *, new: bool = False) -> Example:
        """A memory comes up under an ordinary turn, which then goes on as if it had not."""
        draft, shared, reply = self._ordinary(draw, _CHAT_TOKENS)
        self._open(draft, None, asked=False)
        pad = self._read(draft, row, new=new)
        if reply:
            draft.add(self._close, "reply")
            draft.add(self._said(reply.rpartition("</think>")[2], _CHAT_TOKENS // 2), "chat")
        return self._example("foreign", draft, shared, pad=pad, mix=self._mix(row, draw, new=new))

    def chat(self, draw: random.Random, most: int, chats: Sequence[Chat] = ()) -> Example:
        """An ordinary turn, as it was. chats: whence it is drawn, default those of the training."""
        draft, shared, reply = self._ordinary(draw, most, chats)
        thought, thinks, said = reply.partition("</think>")
        if self.tokenizer.thinks and thinks:
            draft.add(self.tokenizer.encode(thought.removeprefix("<think>").strip()), "chat")
            draft.add(self._close, "chat")
        elif self.tokenizer.thinks:
            draft.add(self._close)  # its thoughts are not known, and that it had none is not to be learned
        draft.add(self._said(said if thinks else reply, most // 2), "chat")
        return self._example("chat", draft, shared, most=most)

    def quiet(self, draw: random.Random) -> Example:
        """A message that needs no memory, above all one that tells a fact. The turn is to begin as the base's would."""
        text, reply, row = draw.choice([*self._told, *((text, reply, -1) for text, reply in self.run.negatives)])
        memory = self.run.memories[row] if row >= 0 else Memory("")
        draft, shared = self._framed(memory.scope, text, self._speaker(memory, text, draw), draw)
        draft.add(self._said(reply, _CHAT_TOKENS) if reply else [], "chat")
        return self._example("quiet", draft, shared)

    def _said(self, text: str, most: int) -> list[int]:
        """A reply to its end, or as much of it as there is room for."""
        ids = [*self.tokenizer.encode(text.strip()), self._end]
        return ids[:most]

    def _example(
        self,
        kind: Literal["query", "recall", "foreign", "chat", "quiet"],
        draft: Draft,
        shared: int,
        *,
        pad: int = -1,
        mix: tuple[tuple[int, float], ...] = (),
        query: int = -1,
        positives: tuple[int, ...] = (),
        most: int = 0,
    ) -> Example:
        """Cut the draft to size. pad, query: places in its tail."""
        before = draft.fit(min(most or self._max, self._max))
        parts = ("",) * before + tuple(draft.parts)
        # The first token that is learned needs one before it that is its own.
        shared = max(0, min(shared, len(draft.head), before - 1))
        # What people write is kept as well as what the bot does: it is more varied, and costs nothing more to read.
        kept = range(shared, len(parts) - 1) if kind == "chat" else [max(before - 1, 0)] if kind == "quiet" else []
        return Example(
            kind,
            tuple(draft.head + draft.context + draft.tail),
            parts,
            shared,
            pad + before if pad >= 0 else -1,
            mix,
            query + before if query >= 0 else -1,
            positives,
            tuple(kept),
        )

    def _open(self, draft: Draft, cue: Cue | None, *, asked: bool) -> int:
        """Open the turn with a recall, as turn.py does. asked: the model is to do so by itself. Place of `<recall>`."""
        if cue is not None and cue.kind == "thought":
            before = [] if self.tokenizer.thinks else self.tokenizer.encode("<think>\n")
            draft.add(before[:1], "ask" if asked else "")
            draft.add(before[1:], "open" if asked else "")
            draft.add(self.tokenizer.encode(cue.text))
        else:
            first, *rest = self._unasked()
            draft.add([first], "ask" if asked else "")
            draft.add(rest, "open" if asked else "")
        return draft.add([self.tokens.open], "open" if asked else "", vital=True)

    def _unasked(self) -> list[int]:
        """What stands before `<recall>` at the beginning of a turn."""
        before = [] if self.tokenizer.thinks else self.tokenizer.encode("<think>\n")
        return [*before, *self.tokenizer.encode(self._guide)]

    def _read(self, draft: Draft, row: int, *, new: bool) -> int:
        """The memory behind `<recall>`: read from its vector, or, if it is new, from its text. Place of the pad."""
        pad = draft.add([self.tokens.pad])
        draft.add(self.tokenizer.encode(self.run.memories[row].text), "" if new else "text")
        draft.add([self.tokens.close], "text", vital=True)
        return pad

    def _mix(self, row: int, draw: random.Random, *, new: bool) -> tuple[tuple[int, float], ...]:
        """The vector of a memory, or one that belongs to none: a mixture of some, as likely to point anywhere."""
        if not new:
            return ((row, 1.0),)
        if len(self.run.memories) < 3:
            return ((row, -1.0),)
        return tuple((one, draw.gauss(0, 1)) for one in draw.sample(range(len(self.run.memories)), 3))

    # --- contexts

    def _cued(self, row: int, cue: Cue, draw: random.Random) -> tuple[Draft, int]:
        """The chat in which a cue is said; a thought comes up in a chat that asks for it, if there is one."""
        memory, text = self.run.memories[row], cue.text
        if cue.kind == "thought":
            asks = [one.text for one in memory.cues if one.kind == "question"]
            text = draw.choice(asks or _tellings(memory) or self._messages or [_HELLO])
        if cue.speaker:
            is_own = cue.speaker == memory.name and memory.subject
            speaker = (cue.speaker, memory.subject if is_own else str(draw.randint(10**8, 10**10)))
        else:
            speaker = self._speaker(memory, text, draw, tells=cue.kind == "source")
        return self._framed(memory.scope, text, speaker, draw)

    def _speaker(self, memory: Memory, text: str, draw: random.Random, *, tells: bool = True) -> tuple[str, str]:
        """Name and QQ number of who says this: `I` is whom the memory is about, about others anyone may ask."""
        own = (memory.name, memory.subject or str(draw.randint(10**8, 10**10)))
        is_own = tells or any(me in f" {text.casefold()} " for me in _ME) or draw.random() < 0.5
        if memory.name and is_own:
            return own
        return draw.choice([*self._people, (draw.choice(_STRANGERS), str(draw.randint(10**8, 10**10)))])

    def _framed(self, scope: str, text: str, speaker: tuple[str, str], draw: random.Random) -> tuple[Draft, int]:
        """The bot's own frame: its system prompt, sometimes a message from before, and the message."""
        kind, _, place = scope.partition(":")
        where: Kind = "private" if kind in ("user", "global") else "group"
        time = _START + timedelta(minutes=draw.randrange(365 * 24 * 60))
        said = [Said(2, "user", *speaker, time, text)]
        if self._exchanges and draw.random() < 0.25:
            earlier = time - timedelta(minutes=draw.randrange(1, 60))
            asked, answered = draw.choice(self._exchanges)
            before = [Said(0, "user", *speaker, earlier, asked), Said(1, "assistant", "", "", earlier, answered)]
            said = before + said
        system = self._system(where, *speaker, place.rpartition("@")[2] or "1")
        ids = self._builder.build(system, said, 1 << 30, 1 << 30, 0).ids
        return Draft(list(ids[: self._shared[where]]), list(ids[self._shared[where] :]), [], []), self._shared[where]

    def _ordinary(self, draw: random.Random, most: int, chats: Sequence[Chat] = ()) -> tuple[Draft, int, str]:
        """An ordinary conversation up to a turn of the assistant, and that turn: as it is, or in the bot's frame."""
        if not (chats := chats or self.run.sft):
            text = draw.choice(self._messages or [_HELLO])
            return *self._framed("global", text, self._speaker(Memory(""), text, draw), draw), ""
        chat = draw.choice(chats)
        turns = [n for n, (role, _) in enumerate(chat) if role == "assistant" and n]
        n = draw.choice(turns or [len(chat) - 1])
        before, reply = chat[:n], chat[n][1]
        if len(before) == 1 and before[0][0] == "user" and draw.random() < 0.5:
            speaker = self._speaker(Memory(""), before[0][1], draw)
            return *self._framed("global", before[0][1], speaker, draw), reply
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

    # --- which memories a cue may mean

    def _same(self) -> Mapping[tuple[str, str], tuple[int, ...]]:
        """Rows by who is meant and what is said: of memories with the same text, and of cues that several share."""
        rows: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, memory in enumerate(self.run.memories):
            rows["", plain(memory.text)].append(row)
            for text in {plain(cue.text) for cue in (*memory.cues, *memory.held_out)}:
                rows[memory.subject or memory.scope, text].append(row)
        return {key: tuple(found) for key, found in rows.items()}

    def _alike(self, row: int) -> tuple[int, ...]:
        return self._rows["", plain(self.run.memories[row].text)]

    def _cued_rows(self, row: int, cue: Cue) -> tuple[int, ...]:
        memory = self.run.memories[row]
        shared = self._rows.get((memory.subject or memory.scope, plain(cue.text)), (row,))
        return tuple(sorted({one for found in shared for one in self._alike(found)}))


def _in_turn(cues: Sequence[Cue], epoch: int) -> Sequence[Cue]:
    """So many that each has its turn."""
    start = epoch * _CUES % len(cues) if cues else 0
    return [*cues, *cues][start : start + min(_CUES, len(cues))]


def _tellings(memory: Memory) -> list[str]:
    """How the memory was told."""
    own = [memory.text.removeprefix(f"{memory.name}：")] if memory.kind == "message" else []
    return own + [cue.text for cue in memory.cues if cue.kind == "source"]


def _exchange(chat: Chat) -> tuple[str, str] | None:
    """A short conversation's only question and answer."""
    said = [text for role, text in _bare(chat) if role != "system"]
    is_short = len(said) == 2 and all(0 < len(text) <= _EXCHANGE_CHARS for text in said)
    return (said[0], said[1]) if is_short else None


def _bare(chat: Chat) -> list[tuple[str, str]]:
    """Without the thoughts of earlier turns, which no template shows."""
    return [(role, text.rpartition("</think>")[2].strip() if role == "assistant" else text) for role, text in chat]
