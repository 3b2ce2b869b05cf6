"""What people say to manage their memories, on a real store."""

from __future__ import annotations

import asyncio
import itertools
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from qqmem import commands
from qqmem.commands import SHOWN, WAIT_SECONDS, Command, Commands
from qqmem.db import Database
from qqmem.memory.memories import Memories
from qqmem.memory.scope import Scope, View
from qqmem.memory.types import Kind, NewMemory
from qqmem.records import Sender

MING, HONG = Sender("10001", "小明"), Sender("10002", "小红")
BOSS = Sender("10003", "群主", role="owner")
PRIVATE, GROUP, OTHER = "private:10001", "group:20002", "group:20003"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """Commands over real memories, as a person uses them."""

    def __init__(self, memories: Memories, language: commands.Language = "zh") -> None:
        self.memories = memories
        self.clock = Clock()
        self.commands = Commands(memories, language, self.clock)
        self.started_over = 0

    async def say(self, text: str, conversation: str = PRIVATE, sender: Sender = MING) -> str:
        command = self.commands.parse(text)
        assert command is not None, text
        return await self.commands.run(command, conversation, sender, self._start_over)

    async def _start_over(self) -> None:
        self.started_over += 1

    async def remember(
        self, text: str, scope: str = "user:10001", speaker: str = "10001", subject: str = "", kind: Kind = "fact"
    ) -> int:
        new = NewMemory(kind, scope, text, datetime.now(UTC), subject, speaker, f"名{speaker}" if speaker else "")
        (stored,) = await self.memories.add([new], "test")
        return stored.id

    async def left(self) -> set[str]:
        """The texts that are still remembered."""
        return {memory.text for memory in await self.memories.store.page(View.all(), 1000)}


@asynccontextmanager
async def desk_in(folder: Path, language: commands.Language = "zh") -> AsyncIterator[Desk]:
    async with Database.open(folder) as db, Memories.open(db, None, folder) as memories:
        yield await asyncio.to_thread(Desk, memories, language)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_in(tmp_path) as found:
        yield found


# ---- what is a command -----------------------------------------------------------------------------------------------

parser = Commands(None, "zh")  # type: ignore[arg-type]  # it only parses


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/记忆", Command("list")),
        ("／记忆　咖啡", Command("list", "咖啡")),
        ("  /记忆   黑  咖啡 \n", Command("list", "黑 咖啡")),
        ("/ 记忆", Command("list")),
        ("/記憶 記得", Command("list", "記得")),
        ("/记忆 本群", Command("list", group=True)),
        ("/记忆 本群 规则", Command("list", "规则", group=True)),
        ("/记忆 本群规则", Command("list", "本群规则")),
        ("/忘记 12", Command("forget", "12")),
        ("/忘记12", Command("forget", "12")),
        ("/忘记#12", Command("forget", "#12")),
        ("/忘記全部", Command("forget", "全部")),
        ("/忘记", Command("forget")),
        ("/忘记 全部", Command("forget", "全部")),
        ("/忘记 本群 全部", Command("forget", "全部", group=True)),
        ("/忘记本群全部", Command("forget", "全部", group=True)),
        ("/忘记 确认", Command("confirm")),
        ("/忘記 確認", Command("confirm")),
        ("/忘记确认", Command("confirm")),
        ("/别记", Command("mute")),
        ("/別記 本群", Command("mute", group=True)),
        ("/记", Command("unmute")),
        ("/记 本群", Command("unmute", group=True)),
        ("/公开", Command("open")),
        ("/不公开", Command("close")),
        ("/不公開", Command("close")),
        ("/导出", Command("export")),
        ("/帮助", Command("help")),
        ("/Memories black coffee", Command("list", "black coffee")),
        ("/memories group", Command("list", group=True)),
        ("/memories groups", Command("list", "groups")),
        ("/forget all", Command("forget", "all")),
        ("/forget group 3", Command("forget", "3", group=True)),
        ("/FORGET Yes", Command("confirm")),
        ("/dontremember", Command("mute")),
        ("/dontremember group", Command("mute", group=True)),
        ("/remember", Command("unmute")),
        ("/share", Command("open")),
        ("/unshare", Command("close")),
        ("/export", Command("export")),
        ("/help", Command("help")),
        ("[CQ:at,qq=999] /记忆", Command("list")),
        ("[CQ:reply,id=5][CQ:at,qq=999,name=小忆]／忘记 咖啡", Command("forget", "咖啡")),
        ("/记忆 a\x00b\ud800", Command("list", "ab")),
    ],
)
def test_a_command_is_known_however_it_is_written(text: str, command: Command) -> None:
    assert parser.parse(text) == command


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "//记忆",
        "记忆",
        "我说 /记忆",
        "/记忆力不好怎么办",
        "/记得我吗",
        "/记 明天开会",
        "/别记得这个",
        "/公开课几点",
        "/公开 本群",
        "/导出 本群",
        "/help me",
        "/helpme",
        "/remember the milk",
        "/share this",
        "/shrug",
        "/start",
        "/home/ming/记忆",
        "[CQ:face,id=1] /记忆",
        "[CQ:at,qq=999]",
    ],
)
def test_anything_else_is_left_to_the_model(text: str) -> None:
    assert parser.parse(text) is None


def test_what_is_said_to_another_bot_is_no_command() -> None:
    known = Commands(None, "zh", self_id="999")  # type: ignore[arg-type]
    assert known.parse("[CQ:at,qq=1] /help") is None
    assert known.parse("[CQ:at,qq=1][CQ:at,qq=999] /help") == known.parse("/help") == Command("help")


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    parser.parse(text)
    parser.parse(f"/忘记 {text}")


def test_both_languages_have_the_same_texts_with_the_same_variables() -> None:
    def variables(language: str) -> dict[str, set[str | None]]:
        file = resources.files("qqmem") / "prompts" / f"commands.{language}.yaml"
        texts: dict[str, str] = yaml.safe_load(file.read_text("utf-8"))
        return {name: {field for _, field, _, _ in string.Formatter().parse(text)} for name, text in texts.items()}

    assert variables("zh") == variables("en")


async def test_help_lists_every_command(desk: Desk) -> None:
    said = await desk.say("/帮助")
    for name in ("/记忆", "/忘记", "/别记", "/记", "/公开", "/不公开", "/导出", "本群"):
        assert name in said


# ---- list ------------------------------------------------------------------------------------------------------------


async def test_nothing_is_remembered_yet(desk: Desk) -> None:
    assert await desk.say("/记忆") == "我还没有记住你的事。"
    assert await desk.say("/记忆 咖啡") == "没有找到有“咖啡”的记忆。"
    assert await desk.say("/导出") == "我还没有记住你的事。"


async def test_ones_own_are_listed_facts_first_by_number(desk: Desk) -> None:
    first = await desk.remember("小明喜欢黑咖啡", subject="10001")
    said = await desk.remember("今天好累", kind="message")
    second = await desk.remember("小明养了一只猫", subject="10001")
    assert (await desk.say("/记忆")).splitlines() == [
        "我记得 3 件你的事：",
        f"#{second} 小明养了一只猫",
        f"#{first} 小明喜欢黑咖啡",
        f"#{said} 名10001：今天好累",
    ]
    assert (await desk.say("/记忆 黑咖")).splitlines() == ["有“黑咖”的记忆，1 条：", f"#{first} 小明喜欢黑咖啡"]


async def test_of_a_long_list_the_newest_are_shown_and_how_many_more(desk: Desk) -> None:
    for n in range(SHOWN + 5):
        await desk.remember(f"小明的第{n}件事")
    lines = (await desk.say("/记忆")).splitlines()
    assert lines[0] == f"我记得 {SHOWN + 5} 件你的事："
    assert [line.split()[1] for line in lines[1:-1]] == [f"小明的第{n}件事" for n in range(SHOWN + 4, 4, -1)]
    assert lines[-1].startswith("还有 5 条")


async def test_a_long_memory_is_cut_and_a_code_in_it_does_nothing(desk: Desk) -> None:
    await desk.remember("[CQ:at,qq=all] 第一行\n第二行" + "长" * 500)
    line = (await desk.say("/记忆")).splitlines()[1]
    assert "[CQ:" not in line
    assert "第一行 第二行" in line
    assert len(line) < 80
    assert "[CQ:" not in await desk.say("/导出")
    assert "[CQ:" not in await desk.say("/忘记 [CQ:at,qq=1]")


async def test_in_private_are_ones_own_of_everywhere_and_nobody_elses(desk: Desk) -> None:
    await desk.remember("私聊说的", "user:10001")
    await desk.remember("群里说的", "member:10001@20002")
    await desk.remember("另一个群里说的", "member:10001@20003")
    await desk.remember("别人私聊说我", "user:10002", "10002", "10001")
    await desk.remember("别人在群里说我", "member:10002@20002", "10002", "10001")
    await desk.remember("公共的事", "global", "")
    said = await desk.say("/记忆")
    assert {"私聊说的", "群里说的", "另一个群里说的"} == {line.split()[1] for line in said.splitlines()[1:]}


async def test_in_a_group_is_what_may_be_seen_there(desk: Desk) -> None:
    await desk.remember("私聊说的", "user:10001")
    await desk.say("/公开")  # for recalls; a list for all eyes is another matter
    await desk.remember("群里说的", "member:10001@20002")
    await desk.remember("另一个群里说的", "member:10001@20003")
    await desk.remember("别人在群里说我", "member:10002@20002", "10002", "10001")
    await desk.remember("别人在群里说自己", "member:10002@20002", "10002", "10002")
    said = await desk.say("/记忆", GROUP)
    assert {"群里说的", "别人在群里说我"} == {
        line.split()[1].partition("：")[2] or line.split()[1] for line in said.splitlines()[1:]
    }


# ---- forget ----------------------------------------------------------------------------------------------------------


async def test_forgetting_by_number(desk: Desk) -> None:
    id = await desk.remember("小明喜欢黑咖啡")
    await desk.remember("小明养了一只猫")
    assert await desk.say(f"/忘记 {id}") == f"忘掉了：#{id} 小明喜欢黑咖啡"
    assert await desk.left() == {"小明养了一只猫"}
    assert await desk.say(f"/忘记 {id}") == f"没有编号是 {id} 的记忆。"


async def test_numbers_that_are_none_forget_nothing(desk: Desk) -> None:
    await desk.remember("小明喜欢黑咖啡")
    for numbers in ["0", "99999", "9" * 18, "9" * 400, "-1", "²", "1.5", "１２３"]:
        assert (await desk.say(f"/忘记 {numbers}")).startswith("没有"), numbers
    assert len(await desk.left()) == 1


async def test_forgetting_by_a_word_that_one_has(desk: Desk) -> None:
    await desk.remember("小明喜欢黑咖啡")
    await desk.remember("小明养了一只猫")
    assert "小明喜欢黑咖啡" in await desk.say("/忘记 咖啡")
    assert await desk.left() == {"小明养了一只猫"}
    assert await desk.say("/忘记 咖啡") == "没有找到有“咖啡”的记忆。"


async def test_before_more_than_one_it_shows_them_and_asks_back(desk: Desk) -> None:
    ids = [await desk.remember(text) for text in ("喜欢咖啡", "讨厌咖啡渣", "养猫")]
    lines = (await desk.say("/忘记 咖啡")).splitlines()
    assert lines[:2] == [f"#{ids[1]} 讨厌咖啡渣", f"#{ids[0]} 喜欢咖啡"]
    assert "/忘记 确认" in lines[2]
    assert len(await desk.left()) == 3
    assert await desk.say("/忘记 确认") == "忘掉了 2 条。"
    assert await desk.left() == {"养猫"}
    assert (await desk.say("/忘记 确认")).startswith("现在没有等你确认的事")


async def test_all_and_several_numbers_are_asked_back_too(desk: Desk) -> None:
    ids = [await desk.remember(text) for text in ("一", "二", "三", "四")]
    assert "这 2 条" in await desk.say(f"/忘记 #{ids[0]}、{ids[1]} 99")
    assert "这 4 条" in await desk.say("/忘记 全部")
    await desk.remember("五")
    assert await desk.say("/忘记 确认") == "忘掉了 4 条。"
    assert await desk.left() == {"五"}  # it came after the question


async def test_a_question_waits_for_five_minutes_for_that_person_there(desk: Desk) -> None:
    for text in ("一", "二"):
        await desk.remember(text, "member:10001@20002")
    await desk.say("/忘记 全部", GROUP)
    for sender, place in ((HONG, GROUP), (MING, OTHER), (MING, PRIVATE)):
        assert (await desk.say("/忘记 确认", place, sender)).startswith("现在没有")
    desk.clock.now += WAIT_SECONDS + 1
    assert (await desk.say("/忘记 确认", GROUP)).startswith("现在没有")
    await desk.say("/忘记 全部", GROUP)
    desk.clock.now += WAIT_SECONDS - 1
    assert await desk.say("/忘记 确认", GROUP) == "忘掉了 2 条。"


async def test_a_newer_command_takes_its_place(desk: Desk) -> None:
    for text in ("一", "二"):
        await desk.remember(text)
    for other in ("/记忆", "/忘记 养猫", "/忘记", "/帮助"):
        await desk.say("/忘记 全部")
        await desk.say(other)
        assert (await desk.say("/忘记 确认")).startswith("现在没有"), other
    assert len(await desk.left()) == 2


async def test_what_has_gone_meanwhile_is_said(desk: Desk) -> None:
    ids = [await desk.remember(text) for text in ("一", "二")]
    await desk.say("/忘记 全部")
    await desk.memories.forget(ids, "test")
    assert await desk.say("/忘记 确认") == "它们已经不在了。"


async def test_forget_alone_says_how(desk: Desk) -> None:
    assert "编号" in await desk.say("/忘记")


async def test_who_forgot_it_is_kept(desk: Desk) -> None:
    id = await desk.remember("小明喜欢黑咖啡")
    await desk.say(f"/忘记 {id}")
    last = (await desk.memories.store.history(id))[-1]
    assert (last.event, last.actor) == ("DELETE", "user:10001")


async def test_words_of_sql_or_of_a_search_mean_nothing(desk: Desk) -> None:
    for text in ("喜欢咖啡", "养猫"):
        await desk.remember(text)
    for words in ("%", "_", "' OR 1=1 --", '"', "*", "咖啡 OR 猫", "NEAR(", "\\", "{words}", "{0}"):
        assert (await desk.say(f"/记忆 {words}")).startswith("没有找到"), words
        assert (await desk.say(f"/忘记 {words}")).startswith("没有找到"), words
    assert len(await desk.left()) == 2


async def test_enormous_words_are_answered_shortly(desk: Desk) -> None:
    await desk.remember("喜欢咖啡")
    assert len(await desk.say("/记忆 " + "咖啡" * 10_000)) < 200
    assert len(await desk.say("/忘记 " + "1 " * 10_000)) < 200


# ---- the group's -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "sender", "may"), [(PRIVATE, MING, True), (GROUP, BOSS, True), (GROUP, MING, False)])
async def test_who_may_start_over(desk: Desk, place: str, sender: Sender, may: bool) -> None:
    for n, text in enumerate(("/重来", "/重來", "/reset"), 1):
        said = await desk.say(text, place, sender)
        assert desk.started_over == (n if may else 0)
        assert said.startswith("好，我们重新开始" if may else "在群里，只有")


async def test_what_it_does_for_a_person_is_told(desk: Desk) -> None:
    await desk.remember("小明养猫")
    await desk.remember("小红养狗", scope="user:10002", speaker="10002")
    said = await desk.say("/状态")
    assert "我记得你 1 件事" in said
    assert "我会记着" in said
    assert "不会在群里提起" in said
    assert "我记得你 0 件事" in await desk.say("/status", GROUP), "what was said in private is not counted there"
    await desk.say("/公开")
    await desk.say("/别记 本群", GROUP, BOSS)
    assert "也可能提起" in await desk.say("/状态")
    assert "我会记着" in await desk.say("/状态")
    assert "我不记" in await desk.say("/状态", GROUP)
    await desk.say("/别记")
    assert "我不记" in await desk.say("/狀態")


async def test_admins_manage_the_groups_memories_and_nobody_elses(desk: Desk) -> None:
    for n in (1, 2):
        await desk.remember(f"群规{n}", "group:20002", "")
    await desk.remember("小明喜欢黑咖啡", "member:10001@20002")
    await desk.remember("另一个群的群规", "group:20003", "")
    assert (await desk.say("/记忆 本群", GROUP, BOSS)).splitlines()[0] == "我记得 2 件本群的事："
    assert "群规1" in await desk.say("/忘记 本群 群规1", GROUP, BOSS)
    await desk.remember("群规3", "group:20002", "")
    assert "本群的这 2 条" in await desk.say("/忘记 本群 全部", GROUP, BOSS)
    assert await desk.say("/忘记 确认", GROUP, BOSS) == "忘掉了 2 条。"
    assert await desk.left() == {"小明喜欢黑咖啡", "另一个群的群规"}
    assert await desk.say("/记忆 本群", GROUP, BOSS) == "我还没有记住本群的事。"


async def test_only_admins_may_and_only_in_a_group(desk: Desk) -> None:
    await desk.remember("群规", "group:20002", "")
    for text in ("/记忆 本群", "/忘记 本群 全部", "/忘记 本群 1", "/别记 本群", "/记 本群"):
        assert "只有群主和管理员" in await desk.say(text, GROUP)
        assert "这里不是群" in await desk.say(text, PRIVATE, BOSS)
    assert await desk.left() == {"群规"}
    assert await desk.memories.store.choices("muted") == frozenset()


async def test_who_is_no_admin_any_more_cannot_say_yes(desk: Desk) -> None:
    for n in (1, 2):
        await desk.remember(f"群规{n}", "group:20002", "")
    await desk.say("/忘记 本群 全部", GROUP, BOSS)
    assert "只有群主和管理员" in await desk.say("/忘记 确认", GROUP, Sender(BOSS.id, BOSS.name, role="member"))
    assert len(await desk.left()) == 2


# ---- choices and export ----------------------------------------------------------------------------------------------


async def test_choices_are_kept_and_taken_back(desk: Desk) -> None:
    store = desk.memories.store
    await desk.say("/别记")
    await desk.say("/别记 本群", GROUP, BOSS)
    await desk.say("/公开", GROUP)
    assert await store.choices("muted") == {"user:10001", "group:20002"}
    assert await store.choices("open") == {"user:10001"}
    await desk.say("/记", GROUP)
    await desk.say("/不公开")
    assert await store.choices("muted") == {"group:20002"}
    assert await store.choices("open") == frozenset()
    await desk.say("/记 本群", GROUP, BOSS)
    assert await store.choices("muted") == frozenset()


async def test_the_export_has_everything_in_full_and_in_private_only(desk: Desk) -> None:
    long = "长" * 500
    await desk.remember(long)
    for n in range(SHOWN + 5):
        await desk.remember(f"小明的第{n}件事")
    assert "私聊" in await desk.say("/导出", GROUP)
    said = await desk.say("/导出")
    assert len(said.splitlines()) == 1 + SHOWN + 6
    assert long in said


async def test_an_export_beyond_all_measure_says_what_is_left_out(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "EXPORT_CHARS", 100)
    for n in range(20):
        await desk.remember(f"小明的第{n}件事")
    lines = (await desk.say("/导出")).splitlines()
    assert "还有" in lines[-1]
    assert f"{20 - (len(lines) - 2)} 条" in lines[-1]


async def test_english(tmp_path: Path) -> None:
    async with desk_in(tmp_path, "en") as desk:
        for text in ("Ming likes coffee", "Ming has a cat"):
            await desk.remember(text)
        assert "Ming likes coffee" in await desk.say("/memories COFFEE")
        assert "/forget yes" in await desk.say("/forget all")
        assert await desk.say("/forget yes") == "Forgotten: 2."


# ---- whatever is asked, whoever asks ---------------------------------------------------------------------------------

PEOPLE, GROUPS = ("1", "2", "3"), ("8", "9")
SCOPES = ["global", *(f"user:{p}" for p in PEOPLE), *(f"group:{g}" for g in GROUPS)]
SCOPES += [f"member:{p}@{g}" for p in PEOPLE for g in GROUPS]
who = st.sampled_from(("", *PEOPLE))
stored = st.tuples(st.sampled_from(SCOPES), who, who)
place = st.sampled_from([*(f"private:{p}" for p in PEOPLE), *(f"group:{g}" for g in GROUPS)])
probe = st.tuples(
    st.sampled_from(
        ["/记忆", "/记忆 事", "/忘记 全部", "/忘记 事", "/忘记 {n}", "/忘记 {n} {m}", "/忘记 确认", "/导出"]
    ),
    st.booleans(),
    place,
    st.sampled_from(PEOPLE),
    st.sampled_from(["member", "admin"]),
    st.integers(-1, 12),
    st.integers(-1, 12),
)
Stored: TypeAlias = tuple[str, str, str]
Probe: TypeAlias = tuple[str, bool, str, str, str, int, int]


def may(scope: Scope, speaker: str, subject: str, conversation: str, person: str, is_admin: bool) -> bool:
    """Written out: theirs, where it may be seen; or the group's own, for its admin."""
    kind, _, id = conversation.partition(":")
    if is_admin and kind == "group" and scope == Scope("group", group=id):
        return True
    if kind == "private":
        is_seen = scope.kind == "global" or (scope.kind in ("user", "member") and scope.owner == id)
    else:
        is_seen = scope.kind == "global" or (scope.kind in ("group", "member") and scope.group == id)
    is_own = person in (speaker, subject)
    return is_seen and is_own


def test_nobody_lists_or_forgets_what_is_not_theirs(tmp_path: Path) -> None:
    numbers = itertools.count()

    async def ask(desk: Desk, memories: list[Stored], probes: list[Probe]) -> None:
        await desk.memories.forget([one.id for one in await desk.memories.store.page(View.all(), 1000)], "test")
        kept, first = {}, 0
        for scope, speaker, subject in memories:
            text = f"第{next(numbers)}号的事"  # what was forgotten is never stored again
            id = await desk.remember(text, scope, speaker, subject)
            first = first or id
            kept[text] = (Scope.parse(scope), speaker, subject)
        for template, group, conversation, person, role, n, m in probes:
            text = template.format(n=first + n, m=first + m)
            text = text.replace(" ", " 本群 ", 1) if group and "确认" not in text else text
            before = await desk.left()
            said = await desk.say(text, conversation, Sender(person, "某人", role=role))
            told = {one for one in kept if one in said}
            for touched in told | (before - await desk.left()):
                assert may(*kept[touched], conversation, person, role == "admin"), (text, touched)

    with asyncio.Runner() as runner:
        opened = desk_in(tmp_path)
        desk = runner.run(opened.__aenter__())

        @given(st.lists(stored, min_size=1, max_size=12), st.lists(probe, min_size=1, max_size=12))
        @settings(max_examples=60, deadline=None)
        def probed(memories: list[Stored], probes: list[Probe]) -> None:
            runner.run(ask(desk, memories, probes))

        try:
            probed()
        finally:
            runner.run(opened.__aexit__(None, None, None))
