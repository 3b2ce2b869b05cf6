"""One text being written: what of the prompt is still to be read, what has been written, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from qqmem.engine.recall import Feed, Recall
from qqmem.engine.text import Channels
from qqmem.engine.types import (
    Ask,
    Detokenizer,
    Finish,
    FinishReason,
    Found,
    Item,
    Model,
    Opening,
    Piece,
    Recalled,
    RecallTokens,
    Request,
    Row,
    Running,
    State,
    Timing,
    Usage,
    Vector,
    Want,
)
from qqmem.errors import PromptTooLong


@dataclass(eq=False, slots=True)
class Generation:
    """State of one request on the worker thread. Tensors stay behind `running`."""

    request: Request
    running: Running
    end_tokens: frozenset[int]
    max_context: int
    submitted: float
    started: float
    cached: int
    pending: list[int]
    """Tokens that the model has not read yet: the rest of the prompt, the last sampled one, or a memory."""
    detokenizer: Detokenizer
    channels: Channels
    recall_tokens: RecallTokens | None
    recall: Recall | None
    value: Vector | None = None
    """Goes in with the first of the pending tokens."""
    written: str = ""
    num_new: int = 0
    first_token: float | None = None
    reason: FinishReason | None = field(default=None)

    @classmethod
    def start(cls, request: Request, model: Model, submitted: float, now: float) -> Generation:
        """Begin on the worker thread. Raises PromptTooLong, or what the model raises."""
        prompt = request.prompt
        if len(prompt) >= model.max_context:
            raise PromptTooLong(
                f"The prompt has {len(prompt)} tokens and the model reads {model.max_context}; "
                "shorten the message, or lower chat.history_tokens."
            )
        running = model.start(request)
        tokens, recall = model.tokenizer.recall, None
        if tokens is not None and request.recall is not None:
            opened = prompt[-1] == tokens.open
            recall = Recall(tokens, request.recall, model.tokenizer.encode, opened=opened)
        return cls(
            request=request,
            running=running,
            end_tokens=model.end_tokens,
            max_context=model.max_context,
            submitted=submitted,
            started=now,
            cached=running.length,
            pending=list(prompt[running.length :]),
            detokenizer=model.tokenizer.detokenizer(),
            channels=Channels(request.channel, request.stop),
            recall_tokens=tokens,
            recall=recall,
        )

    @property
    def is_waiting(self) -> bool:
        """Whether it asked for a memory, and nothing can go on before that comes."""
        return self.recall is not None and self.recall.phase == "waiting"

    @property
    def usage(self) -> Usage:
        return Usage(len(self.request.prompt), self.cached, self.num_new)

    def row(self, limit: int) -> Row:
        """The next at most `limit` pending tokens; something is wanted only of the last of them."""
        tokens = self.pending[:limit]
        is_last = len(tokens) == len(self.pending)
        want = self._want() if is_last else "nothing"
        return Row(self.running, tokens, want, self._banned(), self.value, self._opening())

    def advance(self, row: Row, got: int | Vector | None, now: float) -> list[Item | Ask]:
        """Take note of a step: `row` has been read, and brought what it wanted."""
        del self.pending[: len(row.tokens)]
        self.value = None
        if got is None:
            return []
        if row.want == "state":
            self.reason = "stop"
            return [State(_vector(got))]
        if self.recall is not None and row.want == "query":
            return [self.recall.ask(_vector(got), self.written)]
        if self.first_token is None:
            self.first_token = now
        return self._took(_token(got))

    def answer(self, found: Found | None) -> list[Item]:
        """What it asked for has come, or there is nothing."""
        assert self.recall is not None, "only who recalls is answered"
        return self._read(self.recall, self.recall.answer(found))

    def finish(self, reason: FinishReason, now: float) -> list[Item]:
        """What was held back, and the end."""
        rest: list[Item] = []
        if not self.channels.stopped:
            rest += self._pieces(self.detokenizer.flush())
            rest += [Piece(text, channel, self.num_new) for text, channel in self.channels.flush()]
        first = (self.first_token or now) - self.submitted
        timing = Timing(self.started - self.submitted, first, now - self.submitted)
        return [*rest, Finish(reason, self.usage, timing)]

    def _want(self) -> Want:
        if self.request.wants == "state":
            return "state"
        return "token" if self.recall is None else self.recall.want

    def _banned(self) -> tuple[int, ...]:
        if self.recall is None:
            return self.recall_tokens or ()
        begins = self.request.channel == "reply" and not self.written
        ends_thought = self.written.rstrip().endswith("</think>")
        return self.recall.banned(may_ask=begins or self.channels.channel == "think", ends_thought=ends_thought)

    def _opening(self) -> Opening | None:
        may_open = self.recall is not None and self.recall.want == "token" and not self.num_new and not self.written
        return self.request.recall.opening if may_open and self.request.recall is not None else None

    def _took(self, token: int) -> list[Item | Ask]:
        """Take a token that the model has written."""
        recall = self.recall
        if recall is not None and recall.phase == "checking":
            self.num_new += 1
            return [*self._read(recall, recall.check(token))]
        if token in self.end_tokens:
            self.reason = "stop"
            return []
        self.num_new += 1
        self.pending.append(token)
        pieces: list[Item | Ask] = []
        if recall is None or not recall.opens(token):
            pieces += self._pieces(self.detokenizer.step(token))
        self._check_room()
        return pieces

    def _read(self, recall: Recall, feed: Feed) -> list[Item]:
        """Let the model read what a recall feeds it; once that is over, tell."""
        self.pending += feed.tokens
        self.value = feed.value
        told: list[Item] = []
        if recall.phase == "writing":
            memory = [Piece(recall.text, "memory", self.num_new)] if recall.text else []
            told = [*memory, Recalled(recall.mode), *self._pieces(feed.text)]
        self._check_room()
        return told

    def _check_room(self) -> None:
        if self.channels.stopped:
            self.reason = "stop"
        elif self.num_new >= self.request.max_new_tokens or self.running.length + len(self.pending) >= self.max_context:
            self.reason = "length"

    def _pieces(self, text: str) -> list[Piece]:
        self.written += text
        return [Piece(part, channel, self.num_new) for part, channel in self.channels.push(text)]


def _vector(got: int | Vector) -> Vector:
    assert not isinstance(got, int), "the row wanted a vector"
    return got


def _token(got: int | Vector) -> int:
    assert isinstance(got, int), "the row wanted a token"
    return got


def expired(request: Request, submitted: float, now: float) -> Finish:
    """The end of a request that ran out of time before it was begun."""
    waited = now - submitted
    return Finish("time", Usage(len(request.prompt), 0, 0), Timing(waited, waited, waited))
