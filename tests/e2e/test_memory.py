"""Long-term memory on the embedded model with its starter: told, restarted, pushed out of the window, asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Service

pytestmark = pytest.mark.e2e

MING, HONG, QIANG = ("10001", "小明"), ("10002", "小红"), ("10003", "阿强")
BOOKS, RUNNERS = ("20001", "读书会"), ("20002", "跑步群")

Person = tuple[str, str]
Group = tuple[str, str] | None


@dataclass(frozen=True)
class Fact:
    """Told by somebody in private (told_in None) or in a group; asked by the same, there or in private."""

    who: Person
    told_in: Group
    text: str
    asked_in: Group
    question: str
    answer: str


FACTS = [
    Fact(MING, None, "跟你说，我家的猫叫年糕，今年三岁了。", None, "我家的猫叫什么名字？", "年糕"),
    Fact(MING, None, "我对花生过敏，一点都不能吃。", None, "我对什么东西过敏？", "花生"),
    Fact(HONG, None, "我妹妹叫林晓雨，在上海读大学。", None, "我妹妹叫什么名字？", "林晓雨"),
    Fact(HONG, None, "我下个月打算辞职去开花店，先别告诉别人。", None, "我打算辞职去做什么？", "花店"),
    Fact(QIANG, None, "我女朋友的生日是六月十二号。", None, "我女朋友的生日是几号？", "六月十二"),
    Fact(MING, BOOKS, "我周末在新华书店打工。", BOOKS, "我周末在哪里打工？", "书店"),
    Fact(HONG, BOOKS, "我最喜欢的书是沈从文的《边城》。", BOOKS, "我最喜欢的书是哪一本？", "边城"),
    Fact(QIANG, BOOKS, "我新买的车是一辆白色的比亚迪。", None, "我新买的车是什么牌子？", "比亚迪"),
    Fact(
        QIANG,
        RUNNERS,
        "我跑马拉松的最好成绩是三小时二十八分。",
        RUNNERS,
        "我跑马拉松的最好成绩是多少？",
        "三小时二十八",
    ),
    Fact(HONG, RUNNERS, "我住在成都的玉林路，每天去河边跑步。", None, "我住在成都的哪条路？", "玉林"),
]

TALK = [
    "今天下了一整天的雨，路上到处都是水，鞋子全湿了，晚上只好在家煮了一锅汤面，配了两个荷包蛋，吃完就躺在沙发上不想动。",
    "刚刚看完一部老电影，讲一个邮递员和诗人的故事，画面很慢很安静，看到最后有一点难过，又觉得心里很暖和，想再看一遍。",
    "周末本来想去爬山，结果闹钟没有响，一觉睡到中午，起来以后收拾了房间，洗了三桶衣服，晒满了整个阳台，也算没有白过。",
    "最近在学做面包，前两次都没有发起来，硬得像石头一样，这次换了新的酵母，又多等了一个小时，终于烤出了一个像样的。",
]


def say(service: Service, who: Person, group: Group, text: str) -> dict[str, Any]:
    body: dict[str, Any] = {"user_id": who[0], "user_nickname": who[1], "content": text}
    kind = "private"
    if group is not None:
        kind, body = "group", body | {"group_id": group[0], "group_name": group[1]}
    answer = httpx.post(f"{service.url}/api/chat/{kind}", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ask(service: Service, who: Person, group: Group, question: str) -> tuple[str, list[dict[str, Any]]]:
    """The reply, and what was recalled for it."""
    answer = say(service, who, group, f"小忆，{question}" if group else question)
    place = f"group:{group[0]}" if group else f"private:{who[0]}"
    page = httpx.get(f"{service.url}/api/conversations/{place}/messages").json()
    (turn,) = [turn for turn in page["turns"] if turn["id"] == answer["turn_id"]]
    return answer["reply"], list(turn["recalls"])


def chosen(service: Service, recalls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The memories that came in."""
    ids = [recall["chosen"] for recall in recalls if "chosen" in recall]
    return [httpx.get(f"{service.url}/api/memories/{id}").json() for id in ids]


def fill(service: Service) -> None:
    """Other talk, until nothing that was said before is left in any prompt."""
    for text in TALK:
        for who in (MING, HONG, QIANG):
            say(service, who, None, text)
            for group in (BOOKS, RUNNERS):
                say(service, who, group, text)


@pytest.fixture
def small_window(service: Service) -> Service:
    """A prompt that holds some 250 tokens of history."""
    service.environment |= {
        "QQMEM_CHAT__HISTORY_TOKENS": "256",
        "QQMEM_CHAT__MERGE_WINDOW": "0",
        "QQMEM_GENERATION__SEED": "1",
        "QQMEM_GENERATION__MAX_NEW_TOKENS": "48",
    }
    return service


def test_facts_are_recalled_where_they_may_be_and_nowhere_else(small_window: Service) -> None:
    service = small_window
    service.start()
    for fact in FACTS:
        say(service, fact.who, fact.told_in, fact.text)
    assert service.end() == 0
    service.start()
    fill(service)
    assert httpx.get(f"{service.url}/api/system").json()["release"] == "starter", "however busy it is"

    answered, recalled = [], []
    for fact in FACTS:
        reply, recalls = ask(service, fact.who, fact.asked_in, fact.question)
        memories = chosen(service, recalls)
        answered.append(fact.answer in reply)
        recalled.append(any(fact.answer in memory["text"] for memory in memories))
        if fact.asked_in is not None:
            assert not any(memory["scope"].startswith("user:") for memory in memories)
    assert sum(recalled) >= 8, recalled
    assert sum(answered) >= 8, answered

    for group in (BOOKS, RUNNERS):
        for fact in (fact for fact in FACTS if fact.told_in is None):
            reply, recalls = ask(service, fact.who, group, fact.question)
            found = [candidate["id"] for recall in recalls for candidate in recall["candidates"]]
            scopes = {httpx.get(f"{service.url}/api/memories/{id}").json()["scope"] for id in found}
            assert not any(scope.startswith("user:") for scope in scopes)
            assert fact.answer not in reply

    told = say(service, MING, None, "/忘记 花生")
    assert told["should_reply"]
    if "确认" in told["reply"]:
        say(service, MING, None, "/忘记 确认")
    reply, recalls = ask(service, MING, None, "我对什么东西过敏？")
    assert "花生" not in reply
    assert not any("花生" in memory["text"] for memory in chosen(service, recalls))
    assert service.end() == 0
