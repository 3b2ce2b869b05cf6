"""One turn: what the model is asked, what it writes, and what of that is thought, said and done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Literal, Protocol

from qqmem.engine.prompt import Prompt, PromptBuilder, Prompts, Said, unasked
from qqmem.engine.types import (
    Channel,
    Finish,
    FinishReason,
    Item,
    Piece,
    Recalled as RecallClosed,
    Recalling,
    Request,
    Sampling,
    Timing,
    Tokenizer,
    Usage,
)
from qqmem.errors import EngineError, QqmemError
from qqmem.events import NO_TIMING, NO_USAGE, Recalled, Token, TurnEnded
from qqmem.manners import Policy, is_private
from qqmem.output import ReplyText, parse_actions
from qqmem.recollection import Recollection, Recollections
from qqmem.records import Action, Message, Outcome, TurnEnd
from qqmem.settings import Chat, Generation

log = logging.getLogger(__name__)

_TALK = timedelta(hours=1)
"""After so long a silence, what is said is no answer to what was said before."""
_NO_REPLY_CAME: Mapping[FinishReason, str] = {
    "stop": "The model stopped before it wrote a reply; send the message again.",
    "length": "The model ran out of room before it wrote a reply; raise generation.max_new_tokens.",
    "time": "The model ran out of time before it wrote a reply; try again when fewer chats are busy, or raise "
    "generation.time_limit.",
}


class Writer(Protocol):
    """The engine, as far as a turn needs it."""

    def stream(self, request: Request) -> AsyncGenerator[Item]:
        """Yield the pieces of one text and, last, its Finish. Closing the iterator cancels the request."""
        ...


@dataclass(eq=False, slots=True)
class Turn:
    """One attempt to answer: the messages that it answers, and what has been written so far."""

    id: int
    conversation: str
    messages: tuple[Message, ...]
    anchor: int
    """Where the history in the prompt begins."""
    thinking: str = ""
    reply: ReplyText = field(default_factory=ReplyText)
    actions: str = ""
    """Bodies of action elements, one after another."""
    channel: Channel = "reply"
    usage: Usage = NO_USAGE
    timing: Timing = NO_TIMING
    recollection: Recollection | None = None
    code: str = ""
    """Of the error, once it has failed."""

    @property
    def is_private(self) -> bool:
        return is_private(self.conversation)

    def take(self, item: Item) -> Token | Recalled | None:
        """Take what was written next. Returns what watchers may see of it."""
        match item:
            case Finish():
                self.usage, self.timing = item.usage, item.timing
                return self._shown(self.reply.close())
            case RecallClosed():
                assert self.recollection is not None, "only who recalls is told"
                return Recalled(self.id, self.recollection.closed(item.mode))
            case Piece():
                return self._written(item)
        return None

    def _written(self, item: Piece) -> Token | None:
        self.channel = item.channel
        self.usage = Usage(self.usage.prompt, self.usage.cached, item.n)
        match item.channel:
            case "think":
                return self.think(item.text)
            case "memory":
                return Token(self.id, "memory", item.text, item.n)
            case "action":
                self.actions += item.text
                return None
            case "reply":
                return self._shown(self.reply.push(item.text))

    def think(self, text: str) -> Token:
        """Take what is thought next. Returns what watchers may see of it."""
        self.thinking += text
        return Token(self.id, "think", text, self.usage.completion)

    def _shown(self, text: str) -> Token | None:
        return Token(self.id, "reply", text, self.usage.completion) if text else None

    def finished(self, reason: FinishReason) -> TurnEnd:
        """The end of a turn that was written to its end."""
        actions = parse_actions(self.actions, self.messages[-1])
        if self.actions and not actions:
            log.info("%s turn %d: no action in what the model wrote as one", self.conversation, self.id)
        if actions or (self.reply.text and not self.reply.is_silence):
            return self.end("replied", actions=actions)
        # Out of room or time is never a decision; an empty reply is one only where the bot may stay silent.
        silent = reason == "stop" and self.channel != "think" and not self.is_private
        if silent or self.reply.is_silence:
            return self.end("no_reply")
        return self.failed(EngineError(_NO_REPLY_CAME[reason]))

    def failed(self, error: BaseException) -> TurnEnd:
        """The end of a turn that could not be written, or not be stored."""
        self.code, sentence = explain(error)
        return self.end("failed", error=sentence)

    def end(self, outcome: Outcome, *, actions: tuple[Action, ...] = (), error: str = "") -> TurnEnd:
        """What is stored of it: also what was written before it was stopped."""
        return TurnEnd(
            outcome=outcome,
            reply="" if self.reply.is_silence else self.reply.text,
            thinking=self.thinking.strip(),
            actions=actions,
            error=error,
            prompt_tokens=self.usage.prompt,
            cached_tokens=self.usage.cached,
            completion_tokens=self.usage.completion,
            queue_s=self.timing.queue,
            first_token_s=self.timing.first_token,
            total_s=self.timing.total,
            recalls=tuple(self.recollection.recalls) if self.recollection is not None else (),
        )

    def ended(self, end: TurnEnd) -> TurnEnded:
        """What is told of it."""
        return TurnEnded(
            turn=self.id,
            conversation=self.conversation,
            outcome=end.outcome,
            reply=end.reply if end.outcome == "replied" else "",
            actions=end.actions,
            usage=self.usage,
            timing=self.timing,
            error=end.error,
            code=self.code,
        )


class Author:
    """Writes turns, as soon as there is a tokenizer to make prompts with.

    tokenizer: may have to wait for the model. Asked once, by `start`. recollections: None writes without memories.
    """

    def __init__(
        self,
        writer: Writer,
        tokenizer: Callable[[], Awaitable[Tokenizer]],
        prompts: Prompts,
        chat: Chat,
        generation: Generation,
        recollections: Recollections | None = None,
    ) -> None:
        self._recollections = recollections
        self._writer = writer
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._chat = chat
        self._generation = generation
        self._sampling = Sampling(
            temperature=generation.temperature,
            top_k=generation.top_k,
            top_p=generation.top_p,
            min_p=generation.min_p,
            repetition_penalty=generation.repetition_penalty,
            presence_penalty=generation.presence_penalty,
            seed=generation.seed,
        )

    def start(self) -> None:
        self._builder = asyncio.create_task(self._make_builder())

    async def stop(self) -> None:
        self._builder.cancel()
        await asyncio.gather(self._builder, return_exceptions=True)

    @property
    def policy(self) -> Policy:
        """chat.group_policy; while nobody knows whether the model thinks, `auto` is `addressed`."""
        if self._chat.group_policy != "auto":
            return self._chat.group_policy
        builder = self._builder
        is_ready = builder.done() and not builder.cancelled() and builder.exception() is None
        return "model" if is_ready and builder.result().tokenizer.thinks else "addressed"

    async def _make_builder(self) -> PromptBuilder:
        return await asyncio.to_thread(PromptBuilder, await self._tokenizer())

    async def write(
        self, turn: Turn, history: Sequence[Message], group_name: str, emit: Callable[[Token | Recalled], None]
    ) -> TurnEnd:
        """Write one turn to its end. Raises EngineError, ModelError, or what the engine raises for this request.

        history: the newest messages, oldest first, those that the turn answers among them.
        """
        await asyncio.wait([self._builder])  # unlike `await`, does not cancel it together with this turn
        builder = self._builder.result()
        prompt = await asyncio.to_thread(self._prompt, builder, turn, history, group_name)
        turn.anchor = prompt.anchor
        turn.channel = "think" if builder.tokenizer.thinks else "reply"
        request = await self._with_memory(turn, history, self._request(turn, prompt), builder.tokenizer, emit)
        turn.usage = Usage(len(request.prompt), 0, 0)
        async with aclosing(self._writer.stream(request)) as stream:
            async for item in stream:
                if (event := turn.take(item)) is not None:
                    emit(event)
                if isinstance(item, Finish):
                    return turn.finished(item.reason)
                if turn.reply.is_over:  # what follows would be invented
                    return turn.finished("stop")
        raise AssertionError("a stream ends with a Finish or an error")

    async def wrote(self, turn: Turn) -> None:
        """The turn is stored: count what it recalled."""
        if self._recollections is not None and turn.recollection is not None:
            await self._recollections.used(turn.recollection.recalls)

    async def _with_memory(
        self,
        turn: Turn,
        history: Sequence[Message],
        request: Request,
        tokenizer: Tokenizer,
        emit: Callable[[Token], None],
    ) -> Request:
        """The request, able to recall; if a memory fits what was said, it opens with a recall."""
        recollections, tokens = self._recollections, tokenizer.recall
        if recollections is None or tokens is None or recollections.trigger == "off":
            return request
        visible = {message.id for message in history if message.id >= turn.anchor}
        visible |= {message.id for message in turn.messages}
        last = _just_before(turn, history)
        before = last.text if last is not None and last.role == "assistant" else ""
        trigger, phrase = recollections.trigger, self._prompts.phrase
        thinks, guide = tokenizer.thinks, phrase("guide")
        turn.recollection = await recollections.begin(
            turn.conversation, turn.messages, visible, before, opens=last is None, guide=guide
        )
        opening = unasked(tokenizer, guide)
        recalling = Recalling(
            turn.recollection.find,
            phrase("nothing"),
            limit=recollections.settings.max_per_turn,
            sampled=trigger != "score",
            after_nothing="" if thinks else "\n</think>\n",
            thought=None if thinks else opening[0],
        )
        if trigger == "model" or not await turn.recollection.is_called_for():
            return replace(request, recall=replace(recalling, opening=recollections.opening(opening[0])))
        # A model that does not think by itself is led through: a thought, the memory, and the first words about it.
        if not thinks:
            recalling = replace(recalling, after=f"\n</think>\n{phrase('lead')}")
        turn.channel = "think"
        emit(turn.think(guide))
        prompt = (*request.prompt, *opening, tokens.open)
        return replace(request, prompt=prompt, channel="think", recall=recalling)

    def _prompt(self, builder: PromptBuilder, turn: Turn, history: Sequence[Message], group_name: str) -> Prompt:
        variables = {"bot_name": self._chat.names[0], **_context(turn.messages[-1], group_name)}
        kind: Literal["private", "group"] = "private" if turn.is_private else "group"
        silence = kind == "group" and self.policy == "model"
        # A small model, told of actions, does little else; one that thinks first has the judgement.
        system = self._prompts.system(kind, variables, silence=silence, actions=builder.tokenizer.thinks)
        shown = said(history, silence=silence)
        return builder.build(system, shown, self._chat.history_tokens, self._chat.history_messages, turn.anchor)

    def _request(self, turn: Turn, prompt: Prompt) -> Request:
        return Request(
            prompt=prompt.ids,
            max_new_tokens=self._generation.max_new_tokens,
            sampling=self._sampling,
            conversation=turn.conversation,
            channel=turn.channel,
            time_limit=self._generation.time_limit,
        )


def explain(error: BaseException) -> tuple[str, str]:
    """Code and sentence for the person who waits."""
    if isinstance(error, QqmemError):
        return error.code, str(error)
    return "internal", "The reply failed; see the log."


def _just_before(turn: Turn, history: Sequence[Message]) -> Message | None:
    """The last message before those that the turn answers, if it is of the same talk and in sight of the model."""
    first = min(turn.messages, key=lambda message: message.id)
    last = next((message for message in reversed(history) if message.id < first.id), None)
    is_of_it = last is not None and last.id >= turn.anchor and first.time - last.time <= _TALK
    return last if is_of_it else None


def _context(message: Message, group_name: str) -> dict[str, str]:
    """Variables of the prompt's context."""
    _, _, number = message.conversation.partition(":")
    sender = message.sender
    return {
        "user_name": sender.shown or sender.id,
        "user_id": sender.id,
        "group_name": group_name or number,
        "group_id": number,
    }


def said(history: Sequence[Message], *, silence: bool) -> list[Said]:
    """The history in the order in which the bot went through it.

    A reply follows the last message that it answers, though others were stored while it was written. One that
    answers none of these messages belongs to what lies before them, and is left out.

    silence: whether to show where the bot said nothing. A model that may not be silent would learn it from there.
    """
    last = {message.turn: message.id for message in history if message.role == "user"}
    heard = [message for message in history if message.role == "user" or message.text or silence]
    placed = [(_place(message, last), message) for message in heard]
    placed.sort(key=lambda pair: (pair[0], pair[1].id))
    return [_said(message) for place, message in placed if place]


def _place(message: Message, last: Mapping[int | None, int]) -> int:
    if message.role == "user" or message.turn is None:
        return message.id
    return last.get(message.turn, 0)


def _said(message: Message) -> Said:
    sender = message.sender
    return Said(message.id, message.role, sender.shown, sender.id, message.time, message.text)
