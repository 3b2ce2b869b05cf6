"""One text being written: what of the prompt is still to be read, what has been written, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from qqmem.engine.text import Channels
from qqmem.engine.types import (
    Detokenizer,
    Finish,
    FinishReason,
    Model,
    Piece,
    Request,
    Row,
    Running,
    Timing,
    Usage,
)
from qqmem.errors import PromptTooLong


@dataclass(eq=False, slots=True)
class Generation:
    """State of one request on the worker thread. Tensors stay behind `running`."""

    request: Request
    running: Running
    end_tokens: frozenset[int]
    room: int
    """New tokens that may be written."""
    submitted: float
    started: float
    cached: int
    pending: list[int]
    """Tokens that the model has not read yet: the rest of the prompt, then the last sampled one."""
    detokenizer: Detokenizer
    channels: Channels
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
        return cls(
            request=request,
            running=running,
            end_tokens=model.end_tokens,
            room=min(request.max_new_tokens, model.max_context - len(prompt)),
            submitted=submitted,
            started=now,
            cached=running.length,
            pending=list(prompt[running.length :]),
            detokenizer=model.tokenizer.detokenizer(),
            channels=Channels(request.channel, request.stop),
        )

    @property
    def prefilling(self) -> bool:
        """Whether the prompt has not been read to its end."""
        return self.first_token is None

    @property
    def usage(self) -> Usage:
        return Usage(len(self.request.prompt), self.cached, self.num_new)

    def row(self, limit: int) -> Row:
        """The next at most `limit` pending tokens; a token is sampled only after the last of them."""
        tokens = self.pending[:limit]
        return Row(self.running, tokens, sample=len(tokens) == len(self.pending))

    def advance(self, row: Row, token: int | None, now: float) -> list[Piece]:
        """Take note of a step: `row` has been read, and `token` sampled if the row asked for it."""
        del self.pending[: len(row.tokens)]
        if token is None:
            return []
        if self.first_token is None:
            self.first_token = now
        if token in self.end_tokens:
            self.reason = "stop"
            return []
        self.num_new += 1
        self.pending.append(token)
        pieces = self._pieces(self.detokenizer.step(token))
        if self.channels.stopped:
            self.reason = "stop"
        elif self.num_new >= self.room:
            self.reason = "length"
        return pieces

    def finish(self, reason: FinishReason, now: float) -> list[Piece | Finish]:
        """What was held back, and the end."""
        rest: list[Piece] = []
        if not self.channels.stopped:
            rest = self._pieces(self.detokenizer.flush())
            rest += [Piece(text, channel, self.num_new) for text, channel in self.channels.flush()]
        first = (self.first_token or now) - self.submitted
        timing = Timing(self.started - self.submitted, first, now - self.submitted)
        return [*rest, Finish(reason, self.usage, timing)]

    def _pieces(self, text: str) -> list[Piece]:
        return [Piece(part, channel, self.num_new) for part, channel in self.channels.push(text)]


def expired(request: Request, submitted: float, now: float) -> Finish:
    """The end of a request that ran out of time before it was begun."""
    waited = now - submitted
    return Finish("time", Usage(len(request.prompt), 0, 0), Timing(waited, waited, waited))
