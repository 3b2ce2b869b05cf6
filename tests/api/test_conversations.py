from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.api.conftest import Service, Stage, make_settings, running


async def test_conversations_are_listed_by_pages_the_last_updated_first(service: Service) -> None:
    for user in range(5):
        await service.private("你好", user=user, user_nickname=f"用户{user}")
    seen: list[str] = []
    params: dict[str, str | int] | None = {"limit": 2}
    while params:
        page = (await service.http.get("/api/conversations", params=params)).json()
        seen += [one["id"] for one in page["conversations"]]
        params = {"limit": 2, "before": page["next"]} if "next" in page else None
    assert seen == [f"private:{user}" for user in (4, 3, 2, 1, 0)]


async def test_one_conversation_is_described(service: Service) -> None:
    await service.group("小忆", group=7, group_name="读书会")
    found = (await service.http.get("/api/conversations/group:7")).json()
    assert (found["id"], found["name"], found["num_messages"]) == ("group:7", "读书会", 2)
    assert found["created_at"].endswith("Z")


async def test_messages_are_read_by_pages_with_how_the_replies_came_about(service: Service) -> None:
    for n in range(3):
        await service.private(f"第{n}条", message_id=n)
    newest = (await service.http.get("/api/conversations/private:10001/messages", params={"limit": 4})).json()
    assert [m["text"] for m in newest["messages"]] == ["第1条", "好的。", "第2条", "好的。"]
    assert [(t["outcome"], t["reply"], len(t["messages"])) for t in newest["turns"]] == [("replied", "好的。", 1)] * 2
    older = await service.http.get(
        "/api/conversations/private:10001/messages", params={"limit": 4, "before": newest["next"]}
    )
    assert [m["text"] for m in older.json()["messages"]] == ["第0条", "好的。"]
    assert "next" not in older.json()


async def test_thoughts_are_told_to_those_who_ask_for_them(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(lambda _: "心里话</think>你好", thinks=True)) as service:
        await service.private("在？")
        page = await service.http.get("/api/conversations/private:10001/messages")
        assert "心里话" not in page.text
        traced = await service.http.get("/api/conversations/private:10001/messages", params={"trace": True})
        assert [turn["thinking"] for turn in traced.json()["turns"]] == ["心里话"]
        export = await service.http.get("/api/conversations/private:10001/export")
        assert export.headers["content-type"].startswith("application/jsonl")
        records = [json.loads(line) for line in export.text.splitlines()]
    assert [(r["type"], r.get("text", r.get("reply"))) for r in records] == [
        ("message", "在？"),
        ("message", "你好"),
        ("turn", "你好"),
    ]
    assert records[-1]["thinking"] == "心里话"


async def test_a_trace_has_turns_that_no_message_belongs_to_any_more(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service:
        older = asyncio.create_task(service.private("在吗"))
        await service.stage.begun()
        newer = asyncio.create_task(service.private("算了"))
        await older
        service.stage.go()
        await newer
        await service.private("再见")

        async def outcomes(**params: Any) -> list[list[Any]]:
            pages: list[list[Any]] = []
            before: dict[str, int] = {}
            while True:
                url = "/api/conversations/private:10001/messages"
                page = (await service.http.get(url, params={**params, **before})).json()
                pages.append([turn["outcome"] for turn in page["turns"]])
                if "next" not in page:
                    return pages
                before = {"before": page["next"]}

        assert await outcomes(limit=200) == [["replied", "replied"]]
        assert await outcomes(limit=200, trace=True) == [["superseded", "replied", "replied"]]
        behind_all = await outcomes(limit=200, trace=True, before=1000)
        assert behind_all == [["superseded", "replied", "replied"]]
        assert await outcomes(limit=200, trace=True, before=1) == [[]]
        # 再见 and its answer; the answer to 在吗 and 算了, which came after them; these two.
        paged = await outcomes(limit=2, trace=True)
        assert paged == [["replied"], ["replied"], ["superseded", "replied"], []][: len(paged)]


async def test_a_trace_tells_nothing_of_other_conversations(service: Service) -> None:
    for user in (1, 2, 1):
        await service.private(f"我是{user}", user=user)
    for user, count in ((1, 2), (2, 1)):
        url = f"/api/conversations/private:{user}/messages"
        page = (await service.http.get(url, params={"trace": True})).json()
        assert len(page["turns"]) == count
        mine = {message["id"] for message in page["messages"]}
        assert {id for turn in page["turns"] for id in turn["messages"]} <= mine
    history = service.state["history"]
    assert [turn.id for turn in await history.turns("private:1", {1, 2, 3})] == [1, 3]


async def test_a_deleted_conversation_is_gone_and_its_reply_stops(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service:
        waiting = asyncio.create_task(service.private("忘了我"))
        await service.stage.begun()
        answer = await service.http.delete("/api/conversations/private:10001")
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await waiting).json()["outcome"] == "cancelled"
        assert (await service.http.get("/api/conversations/private:10001")).status_code == 404
        assert (await service.http.get("/api/conversations")).json() == {"conversations": []}


async def test_a_reply_is_cancelled(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service:
        waiting = asyncio.create_task(service.private("讲个长故事"))
        await service.stage.begun()
        cancelled = await service.http.post("/api/conversations/private:10001/cancel")
        assert cancelled.json() == {"cancelled": True}
        answer = await waiting
        assert (answer.status_code, answer.json()["status"], answer.json()["outcome"]) == (200, "success", "cancelled")
        again = await service.http.post("/api/conversations/private:10001/cancel")
        assert again.json() == {"cancelled": False}


async def test_an_unknown_conversation_is_404_everywhere(service: Service) -> None:
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/messages"),
        ("GET", "/export"),
    ):
        answer = await service.http.request(method, f"/api/conversations/private:404{path}")
        assert answer.status_code == 404
        assert answer.json() == {"error": {"code": "not_found", "message": "There is no conversation private:404."}}
    answer = await service.http.get("/api/conversations", params={"before": "group:404"})
    assert answer.status_code == 404
