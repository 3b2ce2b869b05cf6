from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from qqmem.db import Database
from qqmem.history import History
from tests.api.conftest import Service
from tests.test_history import stored

WORDS = st.text(st.sampled_from("aAbBéÉ猫%_\\/'\"* "), min_size=1, max_size=4)


async def found(service: Service, **params: Any) -> list[str]:
    answer = await service.http.get("/api/messages", params=params)
    assert answer.status_code == 200, answer.text
    return [message["text"] for message in answer.json()["messages"]]


async def test_messages_are_found_wherever_they_were_said_the_newest_first(service: Service) -> None:
    await service.private("我养了一只猫")
    await service.group("小忆，猫 和 Dog 都好", group=7)
    await service.private("今天下雨", user=2)
    assert await found(service, q="猫") == ["小忆，猫 和 Dog 都好", "我养了一只猫"]
    assert await found(service, q="dog 猫") == ["小忆，猫 和 Dog 都好"]
    assert await found(service, q="猫", conversation="private:10001") == ["我养了一只猫"]
    assert await found(service, q="好的") == ["好的。"] * 3, "what the bot has said, too"
    assert await found(service, q="鱼") == []
    answer = await service.http.get("/api/messages", params={"q": "下雨"})
    assert answer.json()["messages"][0]["conversation"] == "private:2"


async def test_what_is_found_comes_by_pages(service: Service) -> None:
    for n in range(3):
        await service.private(f"第{n}条")
    first = (await service.http.get("/api/messages", params={"q": "条", "limit": 2})).json()
    assert [message["text"] for message in first["messages"]] == ["第2条", "第1条"]
    last = (await service.http.get("/api/messages", params={"q": "条", "limit": 2, "before": first["next"]})).json()
    assert ([message["text"] for message in last["messages"]], "next" in last) == (["第0条"], False)


async def test_messages_are_given_by_their_numbers_those_that_there_are(service: Service) -> None:
    await service.private("第一")
    await service.private("第二")
    assert await found(service, ids=[3, 1, 404]) == ["第一", "第二"]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"q": " "},
        {"q": "猫", "ids": 1},
        {"q": "a b c d e f g h i j k"},
        {"q": "x" * 201},
        {"ids": 0},
        {"ids": list(range(1, 202))},
        {"q": "猫", "conversation": "nowhere"},
    ],
)
async def test_what_cannot_be_looked_for_is_said(service: Service, params: dict[str, Any]) -> None:
    answer = await service.http.get("/api/messages", params=params)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(WORDS, min_size=1, max_size=8), word=WORDS.filter(str.strip))
async def test_whatever_is_looked_for_stands_as_it_is_in_what_is_found(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], word: str
) -> None:
    folder: Path = tmp_path_factory.mktemp("history")
    async with Database.open(folder) as db:
        history = History(db)
        await stored(history, *texts)
        got = [message.text for message in await history.search([word], 100)]
        # SQLite folds the letters of ASCII only.
        fold = {ord(upper): upper.lower() for upper in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
        wanted = [text for text in reversed(texts) if word.translate(fold) in text.translate(fold)]
        assert got == wanted
