from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from qqmem.memory.extract import Claim, Source
from qqmem.memory.grounding import LONGEST_FACT, MOST_CITED, Fact, ground

NOW = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)
MING, HONG, TOM = ("10001", "小明"), ("10002", "小红"), ("10003", "Tom")


def say(*said: tuple[tuple[str, str], str]) -> list[Source]:
    return [Source(100 + n, qq, name, text, NOW) for n, ((qq, name), text) in enumerate(said)]


def hold(text: str, *said: tuple[tuple[str, str], str], cited: tuple[int, ...] = (1,)) -> Fact | None:
    return ground(Claim(cited, text), say(*said))


def kept(text: str, *said: tuple[tuple[str, str], str], cited: tuple[int, ...] = (1,)) -> str | None:
    fact = hold(text, *said, cited=cited)
    return fact.text if fact else None


CAT = (MING, "我家猫叫年糕，今年三岁了")


def test_a_fact_knows_its_messages_who_said_it_and_whom_it_is_about() -> None:
    sources = say((HONG, "早"), CAT)
    assert ground(Claim((2,), "小明的猫叫年糕。"), sources) == Fact(
        "小明的猫叫年糕", (sources[1],), sources[1], sources[1]
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("小明家猫叫年糕", "小明家猫叫年糕"),
        ("10001的猫叫年糕", "10001的猫叫年糕"),
        ("小明(10001)的猫叫年糕", "小明的猫叫年糕"),
        ("我家猫叫年糕", "小明家猫叫年糕"),
        ("小明：我家猫叫年糕", "小明家猫叫年糕"),
        ("小明(10001)：我家猫叫年糕，今年三岁了", "小明家猫叫年糕，今年三岁了"),
    ],
)
def test_the_speaker_takes_the_place_of_i(text: str, wanted: str) -> None:
    assert kept(text, CAT) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("I am a nurse", "Tom is a nurse"),
        ("I'm a nurse.", "Tom is a nurse"),
        ("My cat is called Bob", "Tom's cat is called Bob"),
        ("Tom is a nurse", "Tom is a nurse"),
        ("Tom's cat is Bob", "Tom's cat is Bob"),
        ("Tom likes tea", "Tom likes tea"),
    ],
)
def test_english_stays_english(text: str, wanted: str) -> None:
    assert kept(text, (TOM, "I'm a nurse, my cat is called Bob and I like tea")) == wanted


def test_i_is_nobody_when_several_are_cited() -> None:
    assert kept("我喜欢爬山", (MING, "我喜欢爬山"), (HONG, "我也喜欢爬山"), cited=(1, 2)) is None


@pytest.mark.parametrize("cited", [(), (0,), (3,), (1, 3), (-1,), tuple(range(1, MOST_CITED + 2))])
def test_only_messages_that_were_shown_are_cited_and_not_many(cited: tuple[int, ...]) -> None:
    assert kept("小明的猫叫年糕", CAT, (HONG, "真可爱"), cited=cited) is None


def test_messages_that_have_nothing_to_do_with_it_are_not_its_sources() -> None:
    fact = hold("小明的猫叫年糕", CAT, (HONG, "我也想去爬山"), cited=(1, 2))
    assert fact is not None
    assert [one.id for one in fact.cited] == [100]


def test_a_quotation_under_a_wrong_number_is_cited_right() -> None:
    said = (HONG, "好可爱！我家只有一条狗"), (MING, "我下个月要去成都出差，15号走"), (HONG, "成都火锅不错")
    for text in ("小明(10001)：我下个月要去成都出差，15号走", "我下个月要去成都出差，15号走", "小明下个月要去成都出差"):
        fact = hold(text, *said)
        assert fact is not None
        assert [one.id for one in fact.cited] == [101]
        assert fact.text.startswith("小明下个月要去成都出差")
    assert kept("小红(10002)：我下个月要去成都出差，15号走", *said) is None
    assert kept("小红下个月要去成都出差，15号走", *said) is None
    assert kept("我下个月要去成都出差，15号走", *said, (HONG, "我下个月要去成都出差，15号走")) is None
    assert kept("小明下周要去成都出差，带着行李", *said) is None


def test_a_fact_of_several_speakers_cites_them_all() -> None:
    fact = hold("小明和小红周六去爬山", (MING, "周六去爬山"), (HONG, "好，周六去爬山"), cited=(1, 2))
    assert fact is not None
    assert {one.speaker for one in fact.cited} == {"10001", "10002"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("小明的猫叫年糕", (MING, "今天好累啊")),
        ("小明的猫今年四岁", CAT),
        ("小明的生日是7月9号", (MING, "我生日是7月8号")),
        ("小明2026年搬到北京", (MING, "我搬到北京了")),
        ("小明的狗叫年糕，喜欢吃鱼和骨头", CAT),
        ("Tom likes dogs", (TOM, "I like cats")),
        ("小明用Python写代码", (MING, "我用Java写代码")),
        ("小明和小红的猫叫年糕", CAT),
    ],
)
def test_what_the_messages_do_not_say_is_dropped(text: str, said: tuple[tuple[str, str], str]) -> None:
    assert kept(text, said, (HONG, "哦")) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Tom是护士", (TOM, "I'm a nurse")),
        ("Xiaoming has a cat", (MING, "我有一只猫")),
        ("小明 is in the 公司", (MING, "我在公司")),
        ("小明喜歡貓", (MING, "我喜欢猫")),
        ("小明は猫が好きです", (MING, "我喜欢猫")),
    ],
)
def test_what_changes_the_language_is_dropped(text: str, said: tuple[tuple[str, str], str]) -> None:
    assert kept(text, said) is None


@pytest.mark.parametrize(
    ("text", "said", "wanted"),
    [
        ("小红喜欢猫", "我不喜欢猫，我喜欢狗", False),
        ("小红不喜欢狗", "我不喜欢猫，我喜欢狗", False),
        ("小红喜欢狗", "我不喜欢猫，我喜欢狗", True),
        ("小红不喜欢猫", "我不喜欢猫，我喜欢狗", True),
        ("小红喜欢猫", "我特别喜欢猫", True),
        ("小红买特斯拉", "如果有钱我就买特斯拉", False),
        ("小红去日本", "我可能去日本", False),
        ("小红可能去日本", "我可能去日本", True),
        ("小红喜欢猫", "你喜欢猫吗？", False),
        ("小红喜欢猫", "谁喜欢猫", False),
        ("小红喜欢猫", "他喜欢猫", False),
        ("小红喜欢猫", "我妹妹很好，她喜欢猫", False),
        ("小红喜欢猫", "你喜欢猫", False),
        ("小红喜欢猫", "小明喜欢猫", False),
        ("小红生日7月9号", "小明的生日快到了，7月9号", False),
        ("小明生日7月9号", "小明的生日快到了，7月9号", True),
        ("小红喜欢猫和其他动物", "我喜欢猫和其他动物", True),
    ],
)
def test_a_fact_says_of_the_same_person_as_much_and_no_more(text: str, said: str, wanted: bool) -> None:
    assert (kept(text, (HONG, said), (MING, "嗯")) is not None) is wanted


@pytest.mark.parametrize("hedged", ["I might move to Berlin", "I never moved to Berlin", "Maybe I moved to Berlin"])
def test_doubt_and_denial_in_english_count_too(hedged: str) -> None:
    assert kept("Tom moved to Berlin", (TOM, hedged)) is None
    assert kept("Tom moved to Berlin", (TOM, "I moved to Berlin")) is not None


def test_the_words_of_one_are_not_put_in_the_mouth_of_another() -> None:
    said = (CAT, (HONG, "我也是"))
    assert kept("小红的猫叫年糕", *said, cited=(1,)) is None
    assert kept("小红的猫叫年糕", *said, cited=(1, 2)) is None
    assert kept("小红的猫叫年糕", *said, cited=(2,)) is None


@pytest.mark.parametrize(
    "text", ["猫叫年糕", "他家猫叫年糕", "妈妈的猫叫年糕", "今年三岁了", "小明", "小明说", "年糕", "有猫"]
)
def test_a_fact_names_its_subject_and_says_something_of_it(text: str) -> None:
    assert kept(text, CAT) is None


def test_the_subject_may_be_one_who_does_not_speak() -> None:
    fact = hold("张伟的生日是7月9号", (MING, "张伟的生日是7月9号"))
    assert fact is not None
    assert fact.subject is None
    assert fact.teller.name == "小明"


def test_the_subject_is_the_one_who_is_told_of_if_that_one_speaks_here() -> None:
    fact = hold("小红的生日是7月9号", (MING, "小红的生日是7月9号"), (HONG, "对呀"))
    assert fact is not None
    assert fact.subject is not None
    assert (fact.subject.speaker, fact.teller.speaker) == ("10002", "10001")


def test_of_two_with_one_name_it_is_the_one_who_said_it() -> None:
    twin = ("10009", "小明")
    for cited, qq in ((1, "10001"), (2, "10009")):
        fact = hold("小明的猫叫年糕", CAT, (twin, "我家猫叫年糕"), cited=(cited,))
        assert fact is not None
        assert fact.subject is not None
        assert fact.subject.speaker == qq


@pytest.mark.parametrize(
    "text", ["小明的猫叫年糕吗", "小明的猫叫什么", "小明的猫叫年糕？", "小明，你的猫叫年糕", "小明说谢谢", "小明说好的"]
)
def test_questions_and_small_talk_are_no_facts(text: str) -> None:
    assert kept(text, (MING, "我的猫叫年糕，叫什么吗你猜，谢谢，好的")) is None


def test_a_fact_is_short() -> None:
    said = "我喜欢" + "、".join(f"苹果{c}" for c in "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉")
    assert kept("小明" + said[1:], (MING, said)) is None
    assert kept("小明喜欢苹果甲", (MING, said)) == "小明喜欢苹果甲"
    assert LONGEST_FACT == 60


def test_a_longer_reading_is_taken_if_it_holds_and_the_shorter_one_if_not() -> None:
    sources = say(CAT)
    for longer, wanted in (("小明的猫叫年糕", "小明的猫叫年糕"), ("小明家猫叫以上是全部结果了", "小明家猫叫")):
        fact = ground(Claim((1,), "小明家猫叫", longer), sources)
        assert fact is not None
        assert fact.text == wanted


@pytest.mark.parametrize("text", ["以名字开头，沿用原话的字词", "阿土上个月换到邮局上班了", "寒暄、提问、玩笑不记"])
def test_the_prompt_itself_is_no_fact(text: str) -> None:
    assert kept(text, CAT) is None


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5)


@given(st.text(max_size=80), st.text(max_size=80), NAMES, NAMES, st.booleans())
def test_any_claim_about_any_message_is_judged_without_an_error(
    text: str, said: str, name: str, other: str, is_quoted: bool
) -> None:
    fact = hold(name + said if is_quoted else text, (("1", name), said), (("2", other), text), cited=(1, 2))
    assert fact is None or fact.cited
