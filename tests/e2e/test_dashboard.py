"""The dashboard as a person uses it, in a real browser, on the embedded model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import text

from qqmem.db import Database
from qqmem.history import History
from qqmem.records import Incoming, Sender
from tests.e2e.browser import (
    DESKTOP,
    PHONE,
    SECONDS,
    Faults,
    chromium,
    opened,
    program,
    serious,
    walk,
)
from tests.e2e.conftest import Service

pytestmark = pytest.mark.e2e

TOKEN = "a-token-for-the-page"
VIEWS = ("live", "conversations", "memories", "training", "system")
CROWD, MANY = "group:50000", 50_000
LONG = "请写一篇五百字的作文，题目是《大海》，写得详细一点。"
FACT, QUESTION, ANSWER = "小明家的猫叫年糕，今年三岁了", "我家的猫叫什么名字？", "年糕"
EVIL = "<img src=x onerror=\"window.hacked='message'\">"
EVIL_NAME = "<b onmouseover=window.hacked=1>\u202e小红\x07"

SOME = re.compile(r"\S")
WRITING = "[data-turn][data-outcome=running]"


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory, folder: object) -> Iterator[Service]:
    """One service for all tests here, with a token."""
    program()
    made = Service(tmp_path_factory.mktemp("bot") / "data")
    made.environment |= {
        "QQMEM_TOKEN": TOKEN,
        "QQMEM_CHAT__MERGE_WINDOW": "0",
        "QQMEM_GENERATION__MAX_NEW_TOKENS": "120",
        "QQMEM_GENERATION__TEMPERATURE": "0",
    }
    asyncio.run(fill(made.data))
    made.start()
    yield made
    if made.process:
        made.process.kill()
        made.process.wait()


@pytest.fixture(scope="module")
def browser(bot: Service) -> Iterator[Browser]:
    """After the service, which is filled by an event loop: Playwright has one of its own."""
    with chromium() as found:
        yield found


async def fill(data: Path) -> None:
    """A group that has been talking for years."""
    async with Database.open(data) as db:
        told = Incoming(CROWD, Sender("9", "老王"), "第0句", datetime.now(UTC))
        first, _ = await History(db).add(told)
        columns = "conversation_id, role, sender_id, sender_name, sender_role, addressed, time, stored_at, withdrawn"
        numbers = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < :last)"
        copies = f"INSERT INTO message ({columns}, text) {numbers} SELECT {columns}, '第' || i || '句' FROM message, n"
        async with db.write() as session:
            await session.execute(text(f"{copies} WHERE id = :first"), {"first": first.id, "last": MANY})


@pytest.fixture
def api(bot: Service) -> Iterator[httpx.Client]:
    """What a script does beside the page."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=bot.url, headers=headers, timeout=120, trust_env=False) as client:
        yield client


@pytest.fixture
def visit(browser: Browser, bot: Service) -> Iterator[tuple[Page, Faults]]:
    """The page before anybody has logged in."""
    with opened(browser, bot.url) as (page, faults):
        yield page, faults


@pytest.fixture
def page(visit: tuple[Page, Faults]) -> Page:
    """The live view of somebody who has logged in."""
    found, _ = visit
    found.goto("/")
    log_in(found)
    return found


def log_in(page: Page) -> None:
    page.locator("#login-token").fill(TOKEN)
    page.locator("#login-submit").click()
    expect(page.locator("[data-view=live]")).to_be_visible()
    expect(page.locator("#connection")).to_have_attribute("data-status", "open")


def say(page: Page, text: str, user: str) -> None:
    """In the page, as a test user."""
    page.locator("#say-user").fill(user)
    page.locator("#say-text").fill(text)
    page.locator("#say-send").click()


def exchange(page: Page, text: str) -> Locator:
    """The entry of the live view in which this was said."""
    return page.locator("[data-turn]").filter(has=page.locator("[data-message]", has_text=text)).last


def ended(turn: Locator, outcome: str) -> None:
    expect(turn).to_have_attribute("data-outcome", outcome, timeout=90 * SECONDS)


def last_turn(api: httpx.Client, conversation: str) -> dict[str, Any]:
    turns = api.get(f"/api/conversations/{conversation}/messages", params={"trace": True}).json()["turns"]
    return dict(turns[-1])


def remember(api: httpx.Client, text: str, user: str) -> int:
    answer = api.post("/api/memories", json={"scope": f"user:{user}", "subject_id": user, "text": text})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def go(page: Page, view: str, rest: str = "") -> None:
    page.evaluate("hash => { location.hash = hash; }", f"#/{view}{rest}")
    expect(page.locator(f"[data-view={view}]")).to_be_visible()


def search(page: Page, words: str) -> None:
    page.locator("#memory-search").fill(words)
    page.locator("#memory-search").press("Enter")
    page.wait_for_url(lambda url: "q=" in url)


def squeezed(text: str) -> str:
    return "".join(text.split())


# ---- coming in -------------------------------------------------------------------------------------------------------


def test_one_logs_in_with_a_token_which_no_script_can_read(visit: tuple[Page, Faults], bot: Service) -> None:
    page, faults = visit
    faults.expected.append("status of 401")  # what the browser itself says of the wrong token
    page.goto("/#/system")
    expect(page.locator("#login-token")).to_be_focused()
    page.keyboard.type("a-wrong-token")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    page.locator("#login-token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("[data-view=system]")).to_be_visible()

    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert TOKEN not in cookie["value"]
    kept = page.evaluate(
        "() => document.cookie + JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})"
    )
    assert TOKEN not in kept
    assert cookie["value"] not in kept
    page.reload()
    expect(page.locator("[data-view=system]")).to_be_visible()

    page.locator("[data-action=logout]").click()
    expect(page.locator("[data-view=login]")).to_be_visible()
    assert page.context.cookies() == []
    assert page.request.get("/api/conversations").status == 401


def test_a_login_that_has_ended_leads_back_to_the_door(visit: tuple[Page, Faults], page: Page) -> None:
    visit[1].expected.append("status of 401")
    page.context.clear_cookies()
    page.evaluate("location.hash = '#/memories'")
    expect(page.locator("[data-view=login]")).to_be_visible()
    page.locator("#login-token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("[data-view=memories]")).to_be_visible()


# ---- watching --------------------------------------------------------------------------------------------------------


def test_a_reply_streams_and_is_what_was_stored(page: Page, api: httpx.Client) -> None:
    say(page, LONG, "31")
    growing = page.locator(f"{WRITING} .reply")
    expect(growing).to_have_text(SOME)
    lengths = [len(growing.inner_text())]
    page.wait_for_function(
        "([selector, n]) => (document.querySelector(selector)?.innerText.length ?? 0) > n",
        arg=[f"{WRITING} .reply", lengths[0] + 5],
    )
    turn = exchange(page, LONG)
    ended(turn, "replied")
    reply = last_turn(api, "private:31")["reply"]
    assert squeezed(turn.locator(".reply").inner_text()) == squeezed(reply)


def test_a_recall_unfolds_where_it_happens(page: Page, api: httpx.Client) -> None:
    wanted = remember(api, FACT, "10001")
    remember(api, "小明在成都读大学", "10001")
    say(page, QUESTION, "10001")
    turn = exchange(page, QUESTION)
    recall = turn.locator("[data-recall]")
    expect(recall).to_have_attribute("data-mode", "spliced")
    chosen = recall.locator("[data-memory][data-chosen]")
    expect(chosen).to_have_attribute("data-memory", str(wanted))
    expect(chosen).to_contain_text(ANSWER)
    ended(turn, "replied")
    told = last_turn(api, "private:10001")["recalls"][0]
    shown = [int(one.get_attribute("data-memory") or 0) for one in recall.locator("[data-memory]").all()]
    assert shown == [candidate["id"] for candidate in told["candidates"]][: len(shown)]
    assert told["chosen"] == wanted

    go(page, "conversations", "/private:10001")
    past = page.locator("[data-turn]").last
    past.locator("[data-action=trace]").click()
    expect(past.locator("[data-recall] [data-chosen]")).to_contain_text(ANSWER)


def test_a_reply_is_stopped_and_another_is_interrupted(page: Page, api: httpx.Client) -> None:
    say(page, LONG, "32")
    turn = exchange(page, LONG)
    expect(turn.locator(".reply")).to_have_text(SOME)
    turn.locator("[data-action=stop]").click()
    ended(turn, "cancelled")
    assert last_turn(api, "private:32")["outcome"] == "cancelled"

    first, second = f"{LONG}第一篇。", "算了，只说“好的”两个字。"
    say(page, first, "33")
    older = exchange(page, first)
    expect(older.locator(".reply")).to_have_text(SOME)
    say(page, second, "33")
    ended(older, "superseded")
    ended(exchange(page, second), "replied")


def test_what_people_write_is_text_and_nothing_of_it_runs(page: Page, api: httpx.Client) -> None:
    body = {"user_id": "41", "user_nickname": EVIL_NAME, "content": EVIL}
    api.post("/api/chat/private", json=body).raise_for_status()
    remember(api, EVIL, "41")
    expect(exchange(page, EVIL)).to_be_visible()
    go(page, "conversations", "/private:41")
    expect(page.locator(".heard[data-message]", has_text=EVIL)).to_be_visible()
    expect(page.locator("[data-conversation='private:41']")).to_contain_text("[U+202E]小红\u2407")
    go(page, "memories", "?scope=user:41")
    page.locator(".memory-text", has_text=EVIL).first.click()
    expect(page.locator(".memory-big", has_text=EVIL)).to_be_visible()
    search(page, "img")
    expect(page.locator(".memory-text", has_text=EVIL).first).to_be_visible()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x], b[onmouseover]").count() == 0


def test_a_conversation_of_many_messages_is_read_without_drawing_them_all(page: Page) -> None:
    go(page, "conversations", f"/{CROWD}")
    expect(page.get_by_text(f"第{MANY}句", exact=True)).to_be_visible()
    messages = page.locator(".messages")
    up = """([list, below]) => {
        list.scrollTop = 0;
        return [...list.querySelectorAll(".heard-text")].some((one) => parseInt(one.innerText.slice(1)) < below);
    }"""
    page.wait_for_function(up, arg=[messages.element_handle(), MANY - 350])
    assert page.locator(".messages [data-message]").count() < 150
    page.locator("#message-search").fill("第123句")
    page.locator(".hit", has_text="第123句").click()
    expect(messages.get_by_text("第123句", exact=True)).to_be_visible()


# ---- memories --------------------------------------------------------------------------------------------------------


def test_a_memory_is_corrected_and_forgotten_and_the_bot_does_not_recall_it(
    visit: tuple[Page, Faults], page: Page, api: httpx.Client
) -> None:
    id = remember(api, "小刚对花生过敏，一点都不能吃", "51")
    visit[1].expected.append(f"/api/memories/{id}")  # what the page was just asking for may be gone: it says so
    go(page, "memories")
    search(page, "花生")
    row = page.locator(f".list-row[data-memory='{id}']")
    row.click()
    page.locator("[data-action=edit]").click()
    page.locator("#memory-text").fill("小刚对檀香过敏，一点都不能闻")
    page.locator("[data-action=save]").click()
    expect(page.locator(".memory-big")).to_have_text("小刚对檀香过敏，一点都不能闻")
    assert api.get(f"/api/memories/{id}").json()["text"] == "小刚对檀香过敏，一点都不能闻"

    page.locator("[data-action=forget]").click()
    page.locator("dialog [data-action=confirm]").click()
    expect(page.locator(".memory-big")).to_have_count(0)  # closed once it is forgotten; the list lost it by the edit
    expect(row).to_have_count(0)
    search(page, "檀香")
    expect(row).to_have_count(0)
    assert api.get(f"/api/memories/{id}").status_code == 404

    go(page, "live")
    say(page, "我对什么东西过敏？", "51")
    ended(exchange(page, "我对什么东西过敏？"), "replied")
    turn = last_turn(api, "private:51")
    assert all(one["id"] != id for recall in turn["recalls"] for one in recall["candidates"])
    assert "檀香" not in turn["reply"], "nobody would guess it"


# ---- for everybody ---------------------------------------------------------------------------------------------------


def test_the_keyboard_alone_is_enough(visit: tuple[Page, Faults]) -> None:
    page, _ = visit
    page.goto("/")
    expect(page.locator("#login-token")).to_be_focused()
    assert {"#login-token", "#login-submit", "#language", "#theme"} <= set(walk(page, 8))
    page.locator("#login-token").focus()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("[data-view=live]")).to_be_visible()

    reached = walk(page, 150)  # past all that other tests have left in the list
    assert {f"#/{view}" for view in VIEWS} <= set(reached)
    assert {"#language", "#theme", "#say-user", "#say-text"} <= set(reached)
    page.locator("#say-text").focus()
    page.keyboard.type(LONG)
    page.keyboard.press("Enter")
    turn = exchange(page, LONG)
    expect(turn.locator(".reply")).to_have_text(SOME)
    stop = turn.locator("[data-action=stop]")
    stop.focus()
    page.keyboard.press("Enter")
    ended(turn, "cancelled")

    page.locator("nav a[href='#/memories']").focus()
    page.keyboard.press("Enter")
    expect(page.locator("[data-view=memories]")).to_be_visible()
    page.locator("#theme").focus()
    before = page.locator("html").get_attribute("data-theme")
    page.keyboard.press("Space")
    expect(page.locator("html")).not_to_have_attribute("data-theme", before or "")
    page.locator("#language").focus()
    page.keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("lang", "en")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_view_keeps_anybody_out(
    browser: Browser, bot: Service, api: httpx.Client, theme: Any, viewport: dict[str, int]
) -> None:
    ids = [one["id"] for one in api.get("/api/memories", params={"limit": 1}).json()["memories"]]
    with opened(browser, bot.url, viewport=viewport, color_scheme=theme, reduced_motion="reduce") as (page, _):
        page.goto("/")
        expect(page.locator("[data-view=login]")).to_be_visible()
        assert page.locator("html").get_attribute("data-theme") == theme
        found = {"login": serious(page)}
        log_in(page)
        rests = ["", *(f"/{id}" for id in ids), "?show=map"]
        for view, rest in [(view, "") for view in VIEWS] + [("memories", rest) for rest in rests[1:]]:
            go(page, view, rest)
            expect(page.locator(".loading")).to_have_count(0)
            found[view + rest] = serious(page)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{view}{rest} is {wide} px wider than the screen"
        assert {view: faults for view, faults in found.items() if faults} == {}


# ---- losing the service: the last test, as it takes it away from all -------------------------------------------------


def test_the_page_comes_back_when_the_network_or_the_service_does(
    visit: tuple[Page, Faults], page: Page, bot: Service, api: httpx.Client
) -> None:
    _, faults = visit
    faults.expected += ["ERR_INTERNET_DISCONNECTED", "ERR_CONNECTION_REFUSED", "WebSocket"]
    status = page.locator("#connection")
    page.context.set_offline(True)
    expect(status).not_to_have_attribute("data-status", "open")
    body = {"user_id": "61", "user_nickname": "小林", "content": "没有人看着的时候说的话"}
    api.post("/api/chat/private", json=body).raise_for_status()
    assert exchange(page, body["content"]).count() == 0
    page.context.set_offline(False)
    expect(status).to_have_attribute("data-status", "open")
    expect(exchange(page, body["content"])).to_be_visible()

    bot.end()
    expect(status).not_to_have_attribute("data-status", "open")
    bot.start()
    expect(status).to_have_attribute("data-status", "open")
    say(page, "你回来了吗？", "62")
    ended(exchange(page, "你回来了吗？"), "replied")
