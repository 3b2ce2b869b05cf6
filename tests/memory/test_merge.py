from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from qqmem.memory.extract import Answer
from qqmem.memory.merge import Decision, Verdict, judge, verdict, weigh
from qqmem.memory.reading import read
from qqmem.memory.types import Memory, NewMemory, State

NOW = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)
SCOPE = "member:10001@7"


def new(text: str, scope: str = SCOPE, subject: str = "10001") -> NewMemory:
    return NewMemory("fact", scope, text, NOW, subject_id=subject)


def old(
    text: str, id: int = 1, scope: str = SCOPE, subject: str = "10001", days: float = 1, state: State = "searchable"
) -> Memory:
    told = NOW - timedelta(days=days)
    return Memory(id, "fact", scope, text, told, subject, "", "", "", (), state, told)


class Comparer:
    """Says the same to every question."""

    def __init__(self, says: Verdict = "different") -> None:
        self.says = says
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, known: str, fact: str) -> Verdict:
        self.asked.append((known, fact))
        return self.says


@pytest.mark.parametrize(
    ("known", "fact", "wanted"),
    [
        ("小明喜欢猫", "小明很喜欢猫", "same"),
        ("小明的猫叫年糕", "小明猫叫年糕！", "same"),
        ("小明喜欢打篮球和游泳", "小明喜欢打篮球", "same"),
        ("小明喜欢打篮球", "小明喜欢打篮球和游泳", None),
        ("小明喜欢猫", "小明不喜欢猫", None),
        ("小明有2只猫", "小明有3只猫", None),
        ("小明用Java写代码", "小明用Python写代码", None),
        ("小明的猫叫年糕", "小明的猫叫年轮", None),
        ("小明住在北京", "小明搬到上海了", "newer"),
        ("小明住在北京", "小明现在住在上海", "newer"),
        ("小明在腾讯工作", "小明跳槽到字节了", "newer"),
        ("小明今年28岁", "小明29岁了", "newer"),
        ("小明的生日是7月9号", "小明生日是7月10号", "newer"),
        ("Tom lives in Paris", "Tom moved to Berlin", "newer"),
        ("小明的妈妈住在北京", "小明搬到上海了", "different"),
        ("小明住在北京", "小明住在上海", None),
        ("小明喜欢猫", "小明在邮局上班", "different"),
    ],
)
def test_the_rules_decide_what_is_certain(known: str, fact: str, wanted: Verdict | None) -> None:
    assert judge(read(fact), read(known)) == wanted


async def test_the_same_fact_is_known() -> None:
    compare = Comparer()
    known = old("小明喜欢猫")
    assert await weigh(new("小明很喜欢猫"), [known], compare) == Decision(known=known)
    assert compare.asked == []


async def test_what_has_changed_replaces_what_was() -> None:
    assert await weigh(new("小明搬到上海了"), [old("小明住在北京", 5)], Comparer()) == Decision(replaces=(5,))


async def test_the_model_is_asked_in_between_only() -> None:
    for says, wanted in (("newer", (5,)), ("different", ())):
        compare = Comparer("newer" if says == "newer" else "different")
        known = [old("小明住在北京", 5), old("小明爱喝咖啡", 6)]
        assert await weigh(new("小明住在上海"), known, compare) == Decision(replaces=wanted)
        assert compare.asked == [("小明住在北京", "小明住在上海")]


async def test_the_model_may_say_that_it_is_the_same() -> None:
    known = old("小明住在北京朝阳区")
    assert (await weigh(new("小明住在朝阳区"), [known], Comparer("same"))).known == known


@pytest.mark.parametrize(
    ("known", "fact"),
    [("小明喜欢猫", "小明不喜欢猫"), ("小明有2只猫", "小明有3只猫"), ("Tom likes cats", "Tom likes dogs")],
)
async def test_a_model_that_overlooks_a_difference_is_not_believed(known: str, fact: str) -> None:
    compare = Comparer("same")
    assert await weigh(new(fact), [old(known)], compare) == Decision()
    assert compare.asked


async def test_the_model_is_asked_about_the_likest_two_only() -> None:
    known = [old(f"小明住在{place}", id) for id, place in enumerate(("广州", "北京", "南京", "大上海", "天津"))]
    compare = Comparer()
    await weigh(new("小明住在上海"), known, compare)
    assert len(compare.asked) == 2
    assert compare.asked[0] == ("小明住在大上海", "小明住在上海")


@pytest.mark.parametrize(
    "known",
    [
        old("小明住在北京", scope="member:10001@8"),
        old("小明住在北京", scope="user:10001"),
        old("小明住在北京", subject="10002"),
        old("小明住在北京", subject=""),
        old("小明住在北京", state="superseded"),
    ],
)
async def test_what_is_of_another_scope_or_subject_or_over_is_left_alone(known: Memory) -> None:
    compare = Comparer("same")
    for fact in ("小明搬到上海了", "小明住在北京", "小明住在上海"):
        assert await weigh(new(fact), [known], compare) == Decision()
    assert compare.asked == []


async def test_a_message_is_no_fact_and_stays() -> None:
    words = Memory(1, "message", SCOPE, "小明住在北京", NOW, "10001", "", "", "", (), "searchable", NOW)
    assert await weigh(new("小明住在北京"), [words], Comparer("same")) == Decision()


async def test_what_is_older_replaces_nothing() -> None:
    assert await weigh(new("小明搬到上海了"), [old("小明住在北京", days=-1)], Comparer()) == Decision()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("相同", "same"),
        ("“相同”。", "same"),
        ("更新\n因为搬家了", "newer"),
        ("Newer.", "newer"),
        ("same", "same"),
        ("不同", "different"),
        ("不相同", "different"),
        ("相同点是都说了小明", "different"),
        ("第二句是更新", "different"),
        ("", "different"),
        ("sameness", "different"),
    ],
)
def test_only_a_clear_answer_counts(text: str, wanted: Verdict) -> None:
    assert verdict(Answer(text, complete=True)) == wanted


def test_an_answer_that_was_cut_off_does_not_count() -> None:
    assert verdict(Answer("相同", complete=False)) == "different"
