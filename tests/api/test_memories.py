"""The routes of /api/memories, over a real socket and a real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, strategies as st

from qqmem.api.memories import lines_of
from qqmem.memory.types import NewMemory
from qqmem.settings import Memory
from tests.api.conftest import Stage, make_settings, running
from tests.api.memories import MAX_BODY, Remembering, remembering

MEMORIES = "/api/memories"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Remembering]:
    async with remembering(tmp_path) as found:
        yield found


async def texts(service: Remembering, **params: Any) -> list[str]:
    answer = await service.http.get(MEMORIES, params=params)
    assert answer.status_code == 200, answer.text
    return [memory["text"] for memory in answer.json()["memories"]]


async def refused(answer: httpx.Response, status: int = 422) -> str:
    """The sentence of an error in our shape."""
    body = answer.json()
    assert (answer.status_code, set(body)) == (status, {"error"}), answer.text
    message: str = body["error"]["message"]
    assert len(message) < 300
    return message


# ---- one memory ------------------------------------------------------------------------------------------------------


async def test_a_told_fact_is_there(service: Remembering) -> None:
    told = await service.http.post(MEMORIES, json={"text": "小明对花生过敏", "scope": "member:10001@20002"})
    assert told.status_code == 201
    memory = told.json()
    assert (memory["text"], memory["scope"], memory["kind"]) == ("小明对花生过敏", "member:10001@20002", "fact")
    assert (memory["subject_id"], memory["speaker_id"], memory["state"]) == ("10001", "", "searchable")
    assert "superseded_by" not in memory
    assert (await service.http.get(f"{MEMORIES}/{memory['id']}")).json() == memory
    history = (await service.http.get(f"{MEMORIES}/{memory['id']}/history")).json()["events"]
    assert [(one["event"], one["new"], one["actor"]) for one in history] == [("ADD", "小明对花生过敏", "api:127.0.0.1")]


async def test_whom_it_is_about_is_the_person_of_the_scope_if_nobody_says(service: Remembering) -> None:
    for scope, subject in (("user:1", "1"), ("member:2@8", "2"), ("group:2", ""), ("global", "")):
        assert (await service.tell("一件事", scope))["subject_id"] == subject
        assert (await service.tell("又一件事", scope, subject_id=77))["subject_id"] == "77"


async def test_what_is_known_or_forgotten_is_not_told_again(service: Remembering) -> None:
    memory = await service.tell("小明养猫")
    body = {"text": "小明养猫", "scope": "user:10001"}
    assert "already" in await refused(await service.http.post(MEMORIES, json=body), 409)
    await service.http.delete(f"{MEMORIES}/{memory['id']}")
    assert "forgotten" in await refused(await service.http.post(MEMORIES, json=body), 409)


async def test_a_memory_gets_another_text(service: Remembering) -> None:
    memory = await service.tell("小明住在北京")
    edited = await service.http.patch(f"{MEMORIES}/{memory['id']}", json={"text": "小明住在上海"})
    assert (edited.status_code, edited.json()["id"], edited.json()["text"]) == (200, memory["id"], "小明住在上海")
    events = (await service.http.get(f"{MEMORIES}/{memory['id']}/history")).json()["events"]
    assert [(one["event"], one["old"], one["new"]) for one in events][-1] == ("UPDATE", "小明住在北京", "小明住在上海")
    assert await texts(service, q="上海") == ["小明住在上海"]


async def test_a_memory_is_pinned_and_let_go(service: Remembering) -> None:
    memory = await service.tell("小明养猫")
    for pinned in (True, False):
        answer = await service.http.post(f"{MEMORIES}/{memory['id']}/pin", json={"pinned": pinned})
        assert (answer.status_code, answer.json()["pinned"]) == (200, pinned)


async def test_a_forgotten_memory_is_gone_without_its_text(service: Remembering) -> None:
    memory = await service.tell("小明的秘密")
    answer = await service.http.delete(f"{MEMORIES}/{memory['id']}")
    assert (answer.status_code, answer.json()) == (200, {"done": True, "count": 1, "memories": [], "forgotten": [1]})
    assert "no memory 1" in await refused(await service.http.get(f"{MEMORIES}/{memory['id']}"), 404)
    history = await service.http.get(f"{MEMORIES}/{memory['id']}/history")
    assert [one["event"] for one in history.json()["events"]] == ["ADD", "DELETE"]
    assert "秘密" not in history.text
    assert await texts(service) == await texts(service, q="秘密") == []


async def test_an_unknown_memory_is_404_and_a_wrong_number_422(service: Remembering) -> None:
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"text": "x"}),
        ("DELETE", "", None),
        ("GET", "/history", None),
        ("POST", "/pin", {}),
    ):
        unknown = await service.http.request(method, f"{MEMORIES}/404{path}", json=body)
        assert "no memory 404" in await refused(unknown, 404)
        for id in ("0", "-1", str(2**63), "9" * 500, "x", "1.5", "%00"):
            await refused(await service.http.request(method, f"{MEMORIES}/{id}{path}", json=body))


WRONG_TEXTS = ["", "  \n", "长" * 2001, "x" * 1_000_000, "a\0b"]


async def test_empty_enormous_and_broken_texts_are_refused(service: Remembering, subtests: pytest.Subtests) -> None:
    memory = await service.tell("小明养猫")
    for text in WRONG_TEXTS:
        with subtests.test(text[:10]):
            await refused(await service.http.post(MEMORIES, json={"text": text, "scope": "global"}))
            await refused(await service.http.patch(f"{MEMORIES}/{memory['id']}", json={"text": text}))
    half = '{"scope": "global", "text": "\\ud800"}'
    headers = {"Content-Type": "application/json"}
    assert "half" in await refused(await service.http.post(MEMORIES, content=half, headers=headers))
    assert await texts(service) == ["小明养猫"]


async def test_a_scope_that_does_not_exist_is_one_clear_error(service: Remembering) -> None:
    for scope in ("", "user:", "planet:1", "user:1@2", "member:1", "GLOBAL", "user:%", "user:" + "1" * 65):
        for answer in (
            await service.http.get(MEMORIES, params={"scope": scope}),
            await service.http.get(MEMORIES, params={"scope": scope, "q": "猫"}),
            await service.http.post(MEMORIES, json={"scope": scope, "text": "猫"}),
            await service.http.post(f"{MEMORIES}/forget", json={"scope": scope}),
            await service.http.get(f"{MEMORIES}/export", params={"scope": scope}),
        ):
            assert "member:<qq>@" in await refused(answer)


# ---- list and search -------------------------------------------------------------------------------------------------


async def test_memories_are_listed_by_pages_the_newest_first(service: Remembering) -> None:
    for n in range(5):
        await service.tell(f"第{n}件事")
    seen: list[str] = []
    params: dict[str, Any] | None = {"limit": 2}
    while params:
        page = (await service.http.get(MEMORIES, params=params)).json()
        seen += [one["text"] for one in page["memories"]]
        params = {"limit": 2, "before": page["next"]} if "next" in page else None
    assert seen == [f"第{n}件事" for n in (4, 3, 2, 1, 0)]
    assert "score" not in page["memories"][0]


async def test_a_list_is_filtered(service: Remembering) -> None:
    await service.tell("一", "user:1")
    await service.tell("二", "member:1@8")
    await service.tell("三", "group:8", subject_id="2")
    await service.remember("四", scope="user:1", kind="message")
    assert await texts(service, scope="user:1") == ["四", "一"]
    assert await texts(service, scope="user:1", kind="fact") == ["一"]
    assert await texts(service, subject="2") == ["三"]
    assert await texts(service, state="superseded") == []
    assert await texts(service, scope="user:404") == []


async def test_a_conversation_shows_what_is_seen_in_it(service: Remembering) -> None:
    for n, scope in enumerate(("user:1", "user:2", "member:1@8", "member:2@8", "member:1@9", "group:8", "global")):
        await service.tell(f"{n} 咖啡", scope)
    for more in ({}, {"q": "咖啡", "k": 20}):
        assert sorted(await texts(service, conversation="private:1", **more)) == [
            "0 咖啡",
            "2 咖啡",
            "4 咖啡",
            "6 咖啡",
        ]
        assert sorted(await texts(service, conversation="group:8", **more)) == ["2 咖啡", "3 咖啡", "5 咖啡", "6 咖啡"]
    both = await service.http.get(MEMORIES, params={"conversation": "group:8", "scope": "global"})
    assert "not both" in await refused(both)
    assert "conversation" in await refused(await service.http.get(MEMORIES, params={"conversation": "room:8"}))


async def test_a_search_says_why_it_found_what(service: Remembering) -> None:
    await service.tell("小明喜欢黑咖啡")
    await service.tell("小红养了一只猫", "user:10002")
    found = (await service.http.get(MEMORIES, params={"q": "咖啡", "k": 5})).json()
    (hit,) = found["memories"]
    assert (hit["text"], hit["fits"]) == ("小明喜欢黑咖啡", True)
    assert hit["score"] > 0
    assert hit["lanes"]["lexical"]["rank"] == 1
    assert set(hit["lanes"]["lexical"]) == {"rank", "score", "strength"}
    for n in range(3):
        await service.tell(f"第{n}种咖啡")
    assert len(await texts(service, q="咖啡", k=2)) == 2


STRANGE = [
    '"',
    "'",
    "*",
    "咖啡*",
    "text:咖啡",
    "NEAR(a b)",
    "a AND",
    "OR",
    "(",
    "' OR 1=1 --",
    "; DROP TABLE memory",
    "%",
    "\0",
    "{}",
    "^a",
    "-a",
    "+",
    "\\",
    "😀" * 500,
]


async def test_no_words_break_a_search(service: Remembering, subtests: pytest.Subtests) -> None:
    await service.tell("小明喜欢黑咖啡")
    for q in STRANGE:
        with subtests.test(q[:12]):
            assert (await service.http.get(MEMORIES, params={"q": q})).status_code == 200
            answer = await service.http.post(
                f"{MEMORIES}/forget", json={"scope": "user:10001", "q": q, "confirm": True}
            )
            assert answer.json()["count"] == 0
    assert (await service.http.get(f"{MEMORIES}?q=%ED%A0%80%FF")).status_code == 200
    assert await texts(service) == ["小明喜欢黑咖啡"]


WRONG_QUERIES = [
    "q=",
    "q=" + "x" * 2001,
    "k=0&q=x",
    "k=101&q=x",
    "limit=0",
    "limit=201",
    "before=0",
    f"before={2**63}",
    "kind=rumour",
    "state=deleted",
    "subject=a%20b",
    "kind=fact&q=x",
]


async def test_a_wrong_query_is_422(service: Remembering) -> None:
    for query in WRONG_QUERIES:
        assert query.partition("=")[0] in await refused(await service.http.get(f"{MEMORIES}?{query}"))


# ---- forget several --------------------------------------------------------------------------------------------------


async def forget(service: Remembering, **body: Any) -> dict[str, Any]:
    answer = await service.http.post(f"{MEMORIES}/forget", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_nothing_is_forgotten_before_it_is_confirmed(service: Remembering) -> None:
    for text in ("喜欢Coffee", "讨厌coffee渣", "养猫"):
        await service.tell(text)
    await service.tell("coffee", "user:2")
    asked = await forget(service, scope="user:10001", q="COFFEE")
    assert (asked["done"], asked["count"], asked["forgotten"]) == (False, 2, [])
    assert [memory["text"] for memory in asked["memories"]] == ["讨厌coffee渣", "喜欢Coffee"]
    assert None not in asked["memories"][0].values()
    assert len(await texts(service)) == 4
    done = await forget(service, scope="user:10001", q="COFFEE", confirm=True)
    assert (done["done"], done["count"], sorted(done["forgotten"])) == (True, 2, [1, 2])
    assert sorted(await texts(service)) == ["coffee", "养猫"]


async def test_a_whole_scope_is_forgotten_however_large(service: Remembering) -> None:
    await service.remember(*(f"第{n}件事" for n in range(450)))
    await service.tell("别人的事", "user:2")
    asked = await forget(service, scope="user:10001")
    assert (asked["count"], len(asked["memories"])) == (450, 200)
    done = await forget(service, scope="user:10001", confirm=True)
    assert (done["count"], len(done["forgotten"])) == (450, 450)
    assert await texts(service) == ["别人的事"]
    assert (await forget(service, scope="user:10001", confirm=True))["forgotten"] == []


async def test_numbers_are_forgotten_all_or_none(service: Remembering) -> None:
    ids = [(await service.tell(text))["id"] for text in ("一", "二", "三")]
    answer = await service.http.post(f"{MEMORIES}/forget", json={"ids": [ids[0], 404], "confirm": True})
    assert "404" in await refused(answer, 404)
    assert len(await texts(service)) == 3
    done = await forget(service, ids=[ids[0], ids[0], ids[2]], confirm=True)
    assert (done["count"], sorted(done["forgotten"])) == (2, [ids[0], ids[2]])
    assert await texts(service) == ["二"]


WRONG_FORGETS: list[dict[str, Any]] = [
    {},
    {"q": "x"},
    {"ids": [1], "scope": "user:1"},
    {"ids": [1], "q": "x"},
    {"ids": []},
    {"ids": [0]},
    {"ids": [-1]},
    {"ids": [2**63]},
    {"ids": ["x"]},
    {"ids": [1] * 501},
    {"scope": "user:1", "q": ""},
    {"scope": "user:1", "all": True},
    {"scope": "user:1", "confirm": "perhaps"},
]


async def test_what_to_forget_must_be_clear(service: Remembering) -> None:
    await service.tell("x", "user:1")
    for body in WRONG_FORGETS:
        await refused(await service.http.post(f"{MEMORIES}/forget", json={"confirm": True, **body}))
    assert await texts(service) == ["x"]


# ---- carry -----------------------------------------------------------------------------------------------------------


async def imported(service: Remembering, content: Any) -> dict[str, Any]:
    headers = {"Content-Type": "application/jsonl"}
    answer = await service.http.post(f"{MEMORIES}/import", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def exported(service: Remembering, **params: Any) -> bytes:
    answer = await service.http.get(f"{MEMORIES}/export", params=params)
    assert answer.headers["content-type"].startswith("application/jsonl")
    return answer.content


def without_ids(lines: bytes) -> list[dict[str, Any]]:
    """The memories of an export, with numbers that count its lines."""
    found = [json.loads(line) for line in lines.splitlines()]
    places = {memory["id"]: place for place, memory in enumerate(found)}
    return [
        memory | {"id": places[memory["id"]], "superseded_by": places.get(memory["superseded_by"])} for memory in found
    ]


async def varied(service: Remembering, num: int) -> None:
    """Memories in every state, of every kind, some superseded by newer ones and one by an older one."""
    memories, now = service.memories, datetime.now(UTC)
    first = await service.remember(*(f"第{n}件事 “{n}”\u2028\t😀" for n in range(num)))
    await service.remember("今天好累", kind="message")
    new = NewMemory("fact", "user:10001", "搬到了上海", now, "10001", "10001", "小明", "private:10001", (3, 7))
    moved = await memories.supersede([first[0].id, first[num // 2].id], new, "test")
    again = NewMemory("fact", "user:10001", first[1].text, now)
    await memories.supersede([moved.id] if moved else [], again, "test")
    await memories.expire(first[2].id, now, "test")
    await memories.pin(first[3].id, True, "test")
    await memories.store.used([first[3].id])
    await memories.forget([first[4].id], "test")
    await service.tell("群规", "group:8")


async def test_what_is_exported_comes_in_elsewhere_exactly(tmp_path: Path) -> None:
    async with remembering(tmp_path / "one") as one, remembering(tmp_path / "two") as two:
        await varied(one, 450)
        lines = await exported(one)
        assert len(without_ids(lines)) == 452
        assert {memory["state"] for memory in without_ids(lines)} == {"searchable", "superseded", "expired"}
        assert sum(memory["superseded_by"] is not None for memory in without_ids(lines)) == 3
        assert await imported(two, lines) == {"added": 452, "skipped": 0, "num_errors": 0, "errors": []}
        assert without_ids(await exported(two)) == without_ids(lines)
        assert await imported(two, lines) == {"added": 0, "skipped": 452, "num_errors": 0, "errors": []}
        assert await texts(two, q="群规") == ["群规"]


async def test_an_export_of_a_scope_has_that_scope_only(service: Remembering) -> None:
    await service.tell("一", "user:1")
    await service.tell("二", "user:2")
    assert [memory["text"] for memory in without_ids(await exported(service, scope="user:2"))] == ["二"]
    assert await exported(service, scope="user:3") == b""


async def test_a_line_by_hand_needs_little(service: Remembering) -> None:
    body = '\ufeff{"scope": "user:1", "text": "一"}\r\n\n  \n{"text": "二", "scope": "global"}'
    service.memories.changed.clear()
    assert await imported(service, body.encode()) == {"added": 2, "skipped": 0, "num_errors": 0, "errors": []}
    assert await texts(service) == ["二", "一"]
    assert service.memories.changed.is_set()  # their vectors are to be made


async def test_the_good_lines_come_in_and_the_bad_ones_are_listed(service: Remembering) -> None:
    lines = [
        b'{"scope": "global", "text": "good 1"}',
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"",
        b'{"scope": "planet:1", "text": "x"}',
        b'{"scope": "global", "text": ""}',
        b'{"scope": "global", "text": "\\ud800"}',
        b'{"scope": "global", "text": "\\u0000"}',
        b'{"scope": "global", "text": "' + b"x" * 2001 + b'"}',
        b'{"scope": "global", "text": "' + b"x" * 70_000 + b'"}',
        b'{"scope": "global", "text": "x", "rating": 5}',
        b'{"scope": "global", "text": "x", "id": -1}',
        b'{"scope": "global", "text": "x", "hits": 99999999999999999999}',
        b'{"scope": "global", "text": "x", "state": "deleted"}',
        b"[" * 10_000,
        b'{"scope": "global", "text": "good 2"}',
    ]
    found = await imported(service, b"\n".join(lines))
    assert (found["added"], found["skipped"], found["num_errors"]) == (2, 0, 14)
    assert [bad["line"] for bad in found["errors"]] == [2, 3, 4, *range(6, 17)]
    assert all(bad["message"].endswith(".") and len(bad["message"]) < 200 for bad in found["errors"])
    assert sorted(await texts(service)) == ["good 1", "good 2"]


async def test_a_line_has_64_kib_at_most(service: Remembering) -> None:
    start = b'{"scope": "global", "text": "%d"'
    lines = [(start % length).ljust(length - 1) + b"}" for length in (2**16 - 1, 2**16, 2**16 + 1, 2**18)]
    for body in (b"\n".join(lines), b"\n".join(lines[::-1])):
        found = await imported(service, body)
        assert [bad["message"] for bad in found["errors"]] == ["The line is longer than 65536 bytes."] * 2
    assert await texts(service) == ["65536", "65535"]


async def test_of_very_many_bad_lines_the_first_are_listed(service: Remembering) -> None:
    found = await imported(service, b"x\n" * 5000)
    assert (found["num_errors"], len(found["errors"]), found["errors"][-1]["line"]) == (5000, 1000, 1000)


async def test_what_was_forgotten_does_not_come_in_again(service: Remembering) -> None:
    await service.tell("秘密")
    lines = await exported(service)
    await service.http.delete(f"{MEMORIES}/1")
    assert (await imported(service, lines))["skipped"] == 1
    assert await texts(service) == []


async def test_an_import_may_be_larger_than_any_other_body(service: Remembering) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        line = '{"scope": "global", "text": "一样的事"' + " " * 30_000 + "}\n"
        for _ in range(2 * MAX_BODY // len(line)):
            yield line.encode()

    found = await imported(service, pieces())
    assert (found["added"], found["num_errors"]) == (1, 0)
    other = await service.http.post(MEMORIES, content=b"x" * (MAX_BODY + 1))
    assert (await refused(other, 413)).startswith("The body is longer")


@given(st.lists(st.binary(max_size=8) | st.just(b"\n"), max_size=30))
def test_lines_are_the_same_however_the_body_is_cut(pieces: list[bytes]) -> None:
    async def cut() -> list[tuple[int, bytes]]:
        async def body() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return [found async for found in lines_of(body())]

    assert asyncio.run(cut()) == list(enumerate(b"".join(pieces).split(b"\n"), 1))


# ---- the whole service -----------------------------------------------------------------------------------------------


async def test_what_is_told_here_is_listed_and_forgotten_in_chat(tmp_path: Path) -> None:
    settings = make_settings(tmp_path).model_copy(update={"memory": Memory(encoder="none")})
    async with running(settings, Stage()) as service:
        told = await service.http.post(MEMORIES, json={"text": "小明养猫", "scope": "user:10001"})
        assert told.status_code == 201
        assert "#1 小明养猫" in (await service.private("/记忆")).json()["reply"]
        assert "小明养猫" in (await service.private("/忘记 1")).json()["reply"]
        assert (await service.http.get(f"{MEMORIES}/1")).status_code == 404


# ---- who may ---------------------------------------------------------------------------------------------------------

READS = (("GET", ""), ("GET", "/1"), ("GET", "/1/history"))
CHANGES = (
    ("POST", ""),
    ("PATCH", "/1"),
    ("DELETE", "/1"),
    ("POST", "/1/pin"),
    ("POST", "/forget"),
    ("GET", "/export"),
    ("POST", "/import"),
)


async def test_reading_needs_read_and_changes_need_admin(tmp_path: Path) -> None:
    async with remembering(tmp_path, tokens={"reader": "read", "talker": "chat", "boss": "admin"}) as service:

        async def status(method: str, path: str, name: str) -> int:
            headers = {"Authorization": f"Bearer {name}-secret"}
            return (await service.http.request(method, MEMORIES + path, headers=headers)).status_code

        for method, path in (*READS, *CHANGES):
            assert await status(method, path, "stranger") == 401
            assert await status(method, path, "talker") == 403
            assert (await status(method, path, "reader") == 403) is ((method, path) in CHANGES)
            assert await status(method, path, "boss") in (200, 404, 422)
