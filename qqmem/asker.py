"""Asks the model a question that nobody waits for."""

from __future__ import annotations

from contextlib import aclosing

from qqmem.engine.types import BACKGROUND, Finish, Piece, Request
from qqmem.engine.worker import Engine
from qqmem.memory.extract import Answer, Ask
from qqmem.settings import Generation

QUESTION_TOKENS, CHAT_TOKENS = 40, 120
"""Of a question about a memory, and of a reply that shows how the model writes."""

_ANSWER_TOKENS = 384
"""Of a model that answers at once: twenty facts are not longer, and a small model may not know when to stop."""


def asker(engine: Engine, generation: Generation, *, base: bool = False, most: int | None = None) -> Ask:
    """Ask(system, user) -> Answer, greedy and at low priority. Raises EngineError, or why the model was not loaded.

    base: the untrained model answers. most: tokens behind its thoughts at which an answer is broken off.
    """

    async def ask(system: str, user: str) -> Answer:
        tokenizer = (await engine.ready()).tokenizer
        longest = generation.max_new_tokens
        request = Request(
            prompt=tuple(tokenizer.render([("system", system), ("user", user)])),
            max_new_tokens=longest if tokenizer.thinks else min(longest, most or _ANSWER_TOKENS),
            channel="think" if tokenizer.thinks else "reply",
            priority=BACKGROUND,
            base=base,
        )
        text, first, complete = "", 0, False
        async with aclosing(engine.stream(request)) as stream:
            async for item in stream:
                if isinstance(item, Piece) and item.channel == "reply":
                    text += item.text
                    first = first or item.n
                    if most is not None and item.n - first + 1 >= most:
                        break
                elif isinstance(item, Finish):
                    complete = item.reason == "stop"
        return Answer(text, complete)

    return ask
