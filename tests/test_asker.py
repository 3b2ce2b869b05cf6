"""A question to the model that nobody waits for."""

from __future__ import annotations

import pytest

from qqmem.asker import asker
from qqmem.engine.types import BACKGROUND, Request
from qqmem.engine.worker import Engine
from qqmem.memory.extract import Answer
from qqmem.settings import Generation
from tests.fakes_engine import CharTokenizer, Recital, ScriptedModel

LONG = "一二三四五六七八九十" * 60


class Noting(ScriptedModel):
    """Keeps what was asked of it."""

    asked: list[Request]

    def start(self, request: Request) -> Recital:
        self.asked = [*getattr(self, "asked", []), request]
        return super().start(request)


async def answered(script: str, *, thinks: bool = False, **options: object) -> tuple[Answer, Request]:
    model: list[Noting] = []

    def load() -> Noting:
        model.append(Noting(lambda _: script, tokenizer=CharTokenizer(thinks=thinks)))
        return model[0]

    async with Engine(load) as engine:
        answer = await asker(engine, Generation(), **options)("你是小忆", "你好")  # type: ignore[arg-type]
    return answer, model[0].asked[0]


async def test_an_answer_and_who_gives_it() -> None:
    answer, request = await answered("好的。")
    assert (answer, request.priority, request.base) == (Answer("好的。", complete=True), BACKGROUND, False)
    answer, request = await answered("好的。", base=True, most=9)
    assert (answer, request.priority, request.base) == (Answer("好的。", complete=True), BACKGROUND, True)


@pytest.mark.parametrize("most", [1, 7, 120])
async def test_it_is_broken_off(most: int) -> None:
    answer, request = await answered(LONG, most=most)
    assert (answer, request.max_new_tokens) == (Answer(LONG[:most], complete=False), most)


async def test_thoughts_have_room_besides() -> None:
    answer, _ = await answered(f"{LONG}</think>{LONG}", thinks=True, most=7)
    assert answer == Answer(LONG[:7], complete=False)


async def test_what_is_not_broken_off_is_as_long_as_a_reply_may_be() -> None:
    answer, _ = await answered(f"想</think>{LONG}", thinks=True)
    assert answer == Answer(LONG, complete=True)
    answer, _ = await answered(LONG)
    assert (len(answer.text), answer.complete) == (384, False)
