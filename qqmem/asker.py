"""Asks the model a question that nobody waits for."""

from __future__ import annotations

from contextlib import aclosing

from qqmem.engine.types import BACKGROUND, Finish, Piece, Request
from qqmem.engine.worker import Engine
from qqmem.memory.extract import Answer, Ask
from qqmem.settings import Generation

_ANSWER_TOKENS = 384
"""Of a model that answers at once: twenty facts are not longer, and a small model may not know when to stop."""


def asker(engine: Engine, generation: Generation) -> Ask:
    """Ask(system, user) -> Answer, greedy and at low priority. Raises EngineError, or why the model was not loaded."""

    async def ask(system: str, user: str) -> Answer:
        tokenizer = (await engine.ready()).tokenizer
        most = generation.max_new_tokens
        request = Request(
            prompt=tuple(tokenizer.render([("system", system), ("user", user)])),
            max_new_tokens=most if tokenizer.thinks else min(most, _ANSWER_TOKENS),
            channel="think" if tokenizer.thinks else "reply",
            priority=BACKGROUND,
        )
        text, complete = "", False
        async with aclosing(engine.stream(request)) as stream:
            async for item in stream:
                if isinstance(item, Piece) and item.channel == "reply":
                    text += item.text
                elif isinstance(item, Finish):
                    complete = item.reason == "stop"
        return Answer(text, complete)

    return ask
