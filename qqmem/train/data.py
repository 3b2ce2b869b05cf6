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
from math import ceil
from typing import Literal

from qqmem.engine.prompt import unasked
from qqmem.engine.types import RecallTokens, Tokenizer
from qqmem.train.draft import Draft
from qqmem.train.frames import HELLO, Frames
from qqmem.train.records import Chat, Cue, Memory, Quiet, Run, plain

PARTS = ("ask", "open", "text", "reply", "chat")

UNSEEN = 0.15
"""Examples with a vector that no memory has, for each that reads a memory: new memories are to look familiar."""
_CUES = 3
"""Of a memory in one epoch of stage 1."""
_CHAT_TOKENS = 256
"""Of an ordinary turn that is read beside others; a longer one says no more about how the model writes."""


@dataclass(frozen=True, slots=True)
class Example:
    """One text.

    kind: query: looks for a memory. recall: a turn that needs one and goes on with it. foreign: a memory comes up where
        none is needed. read: a memory by itself. chat: an ordinary turn. quiet: a message that needs no memory, up to
        where the bot would write.
    ids: tokens. parts: for each token the part as which it is learned.
    shared: so many of the first tokens are the same in every example of its frame.
    pad: place of the pad. mix: what enters there, as weights of rows of the values.
    query: place of the `<recall>` whose state looks for the memories `positives`; -1 for none.
    keep: places from which the next token is to stay as likely as in the base.
    """

    kind: Literal["query", "recall", "foreign", "read", "chat", "quiet"]
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
        self._frames = Frames(run, tokenizer)
        self._guide = run.prompts.phrase("guide")
        self._lead = run.prompts.phrase("lead")
        self._rows = self._same()
        self._told = [(Quiet(text), row) for row, one in enumerate(run.memories) for text in _tellings(one)]

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
    def opening(self) -> list[int]:
        """The tokens that open a turn with a recall, by itself."""
        return [*unasked(self.tokenizer, self._guide), self.tokens.open]

    def asking(self, row: int, draw: random.Random) -> tuple[int, ...]:
        """Tokens up to `<recall>` in a turn where this memory may come, behind a cue if it has any."""
        memory = self.run.memories[row]
        cues = [*memory.held_out, *memory.cues] or [Cue("source", HELLO)]
        return self.query(row, next((cue for cue in cues if cue.kind == "question"), cues[0]), draw).ids

    def unopened(self, row: int, cue: Cue, draw: random.Random) -> tuple[int, ...]:
        """A cue up to where the turn begins."""
        draft, shared = self._cued(row, cue, draw)
        return self._example("query", draft, shared).ids

    def beside(self, before: Sequence[int], row: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens up to a pad and behind it, where this memory comes up in a turn that begins behind `before`."""
        kept = list(before)
        if self.tokenizer.thinks and kept[-len(self._close) :] == self._close:
            del kept[-len(self._close) :]
        memory = self.tokenizer.encode(self.run.memories[row].text)
        return (*kept, *self.opening), (*memory, self.tokens.close, *self._close)

    def alone(self, text: str, draw: random.Random) -> tuple[int, ...]:
        """Somebody's message in private, up to where the turn begins."""
        return self._example("quiet", *self._frames.framed("global", text, self._frames.stranger(draw), draw)).ids

    def text_queries(self) -> list[Example]:
        """`text<recall>` of every memory: what stage 1 is not, for comparison."""
        examples = []
        for row, memory in enumerate(self.run.memories):
            ids = (*self.tokenizer.encode(memory.text), self.tokens.open)
            examples.append(Example("query", ids, ("",) * len(ids), query=len(ids) - 1, positives=self._alike(row)))
        return examples

    def stage2(
        self, epoch: int, *, chat: float, foreign: float = 0.5, quiet: float = 1.0, readings: int = 0
    ) -> list[Example]:
        """Every memory once, in its own turn or under a foreign one, and `readings` times by itself; shuffled.

        foreign: share of the latter, by tokens. chat: share of ordinary turns in all tokens. quiet: messages that need
        no memory, for each recall.
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
        if self.run.negatives or self._told:
            num_quiet = round(quiet * sum(example.kind == "recall" for example in examples))
            examples += [self.quiet(draw) for _ in range(num_quiet)]
        examples += [self.reading(row) for row in rows for _ in range(readings)]
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
        draft, shared, reply = self._frames.ordinary(draw, _CHAT_TOKENS)
        self._open(draft, None, asked=False)
        pad = self._read(draft, row, new=new)
        if reply:
            draft.add(self._close, "reply")
            draft.add(self._said(reply.rpartition("</think>")[2], _CHAT_TOKENS // 2), "reply")
        return self._example("foreign", draft, shared, pad=pad, mix=self._mix(row, draw, new=new))

    def reading(self, row: int) -> Example:
        """A memory read from its vector, behind the shortest beginning of a turn: nothing but the memory costs much."""
        draft = Draft([*self.tokenizer.render([("user", HELLO)]), *self.opening], [], [], [])
        pad = self._read(draft, row, new=False)
        return self._example("read", draft, len(draft.head), pad=pad, mix=((row, 1.0),))

    def chat(self, draw: random.Random, most: int, chats: Sequence[Chat] = ()) -> Example:
        """An ordinary turn, as it was. chats: whence it is drawn, default those of the training."""
        draft, shared, reply = self._frames.ordinary(draw, most, chats)
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
        one, row = draw.choice([*self._told, *((one, -1) for one in self.run.negatives)])
        memory, (text, reply, before) = self.run.memories[row] if row >= 0 else Memory(""), one
        speaker = self._frames.speaker(memory, text, draw)
        before = before or self._frames.reminded(memory, draw)
        draft, shared = self._frames.framed(memory.scope, text, speaker, draw, before)
        draft.add(self._said(reply, _CHAT_TOKENS) if reply else [], "chat")
        return self._example("quiet", draft, shared)

    def _said(self, text: str, most: int) -> list[int]:
        """A reply to its end, or as much of it as there is room for."""
        ids = [*self.tokenizer.encode(text.strip()), self._end]
        return ids[:most]

    def _example(
        self,
        kind: Literal["query", "recall", "foreign", "read", "chat", "quiet"],
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
            first, *rest = unasked(self.tokenizer, self._guide)
            draft.add([first], "ask" if asked else "")
            draft.add(rest, "open" if asked else "")
        return draft.add([self.tokens.open], "open" if asked else "", vital=True)

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

    # --- cues

    def _cued(self, row: int, cue: Cue, draw: random.Random) -> tuple[Draft, int]:
        """The chat in which a cue is said; a thought comes up in a chat that asks for it, if there is one."""
        memory, text = self.run.memories[row], cue.text
        if cue.kind == "thought":
            asks = [one.text for one in memory.cues if one.kind == "question"]
            text = draw.choice(asks or _tellings(memory) or self._frames.messages or [HELLO])
        if cue.speaker:
            is_own = cue.speaker == memory.name and memory.subject
            speaker = (cue.speaker, memory.subject if is_own else str(draw.randint(10**8, 10**10)))
        else:
            speaker = self._frames.speaker(memory, text, draw, tells=cue.kind == "source")
        return self._frames.framed(memory.scope, text, speaker, draw, self._frames.reminded(memory, draw))

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
