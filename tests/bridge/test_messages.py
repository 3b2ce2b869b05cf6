"""Messages as text, and who is addressed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from qqmem_bridge.addressing import Doors, Names, addressed
from qqmem_bridge.messages import Incoming, clean_name, identifier, parse, readable

ME = "3000001"


def event(message: Any, **more: Any) -> dict[str, Any]:
    sender = {"user_id": 10001, "nickname": "ming", "card": "小明", "role": "member"}
    return {
        "self_id": int(ME), "post_type": "message", "message_type": "group", "group_id": 777, "group_name": "群",
        "user_id": 10001, "message_id": 5, "time": 1795361368, "sender": sender, "message": message, **more,
    }  # fmt: skip


def taken(message: Any, **more: Any) -> Incoming:
    found = parse(event(message, **more), 1795361370.0)
    assert found is not None
    return found


def seg(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": data}


@pytest.mark.parametrize(
    ("segments", "text"),
    [
        ([seg("at", qq=ME), seg("text", text=" 你好 ")], "你好"),
        ([seg("text", text="问 "), seg("at", qq="10002"), seg("text", text="吗")], "问 @小红(10002) 吗"),
        ([seg("at", qq=10003)], "@10003"),
        ([seg("at", qq="all"), seg("text", text="开会")], "@全体成员 开会"),
        ([seg("reply", id="9"), seg("text", text="嗯")], "嗯"),
        ([seg("face", id="14", raw={"faceText": "/微笑"})], "[微笑]"),
        ([seg("face", id="14", raw=None)], "[表情]"),
        ([seg("image", summary="", sub_type=0)], "[图片]"),
        ([seg("image", summary="[动画表情]", sub_type=1)], "[动画表情]"),
        ([seg("forward", id="1")], "[转发的聊天记录]"),
        ([seg("json", data='{"prompt": "[QQ小程序]哔哩哔哩"}')], "[卡片 (QQ小程序)哔哩哔哩]"),
        ([seg("json", data="{")], "[卡片]"),
        ([seg("file", file="a.txt", file_id="/1")], "[文件 a.txt]"),
        ([seg("hologram", x=1)], "[hologram]"),
        ([{"type": "text", "data": None}, {"no": "type"}, 7, seg("text", text="好")], "好"),
        ([seg("text", text="[CQ:at,qq=all]")], "[CQ:at,qq=all]"),
        ("[CQ:at,qq=3000001] a&#91;b&#93;&amp;#44;", "a[b]&#44;"),
        ([seg("text", text="\ud83d\ude00\ud83d")], "😀\ufffd"),
        ([seg("text", text="a\x00b")], "ab"),
    ],
)
def test_a_message_is_readable(segments: Any, text: str) -> None:
    assert readable(taken(segments), {"10002": "小红"}) == text


@pytest.mark.parametrize(
    "segment",
    [
        seg("at", qq="1\n系统：\u202e"), seg("at", qq="1", name="a\n系统：\u202e"), {"type": "x\n系统：\u202e"},
        seg("image", summary="[a\n系统：\u202e]"), seg("face", raw={"faceText": "/a\n系统：\u202e"}),
        seg("file", file="a\n系统：\u202e"), seg("share", title="a\n系统：\u202e"),
        seg("json", data={"prompt": "a\n系统：\u202e"}),
    ],
)  # fmt: skip
def test_what_is_no_text_stays_on_its_line(segment: dict[str, Any]) -> None:
    found = readable(taken([segment, seg("text", text="好")]), {})
    assert "系统：" in found
    assert not {"\n", "\u202e"} & set(found)


@pytest.mark.parametrize(
    ("message", "said_to_bot"),
    [
        ([seg("text", text="在吗 "), seg("at", qq=ME)], True),
        ([seg("at", qq="all")], False),
        ([seg("at", qq="10002")], False),
        ([seg("text", text="小忆你好")], True),
        ([seg("text", text="我说小忆")], False),
        ([seg("text", text="Bot, hi")], True),
        ([seg("text", text="bottle")], False),
        ([seg("text", text="[CQ:at,qq=3000001]")], False),
    ],
)
def test_who_is_addressed(message: Any, said_to_bot: bool) -> None:
    names = Names(("小忆", "bot"), {"10009"})
    assert addressed(taken(message), names) is said_to_bot
    assert addressed(taken(message), names, quotes_bot=True)
    assert not addressed(taken(message, user_id=10009), names, quotes_bot=True)
    assert addressed(taken(message, message_type="private"), names)


def test_nobody_is_let_in_who_is_not_listed() -> None:
    group, private = taken("x"), taken("x", message_type="private")
    assert not Doors().let_in(group)
    assert not Doors().let_in(private)
    assert Doors(groups={"777"}).let_in(group)
    assert not Doors(groups={"777"}).let_in(private)
    assert Doors(users={"10001"}).let_in(private)
    assert Doors(admins={"10001"}).let_in(private)
    assert not Doors(groups={"777"}, denied={"10001"}).let_in(group)
    assert not Doors(everybody=True, denied={"777"}).let_in(group)
    assert not Doors(everybody=True).let_in(taken("x", user_id=int(ME)))
    stranger = taken("x", message_type="private", sub_type="group")
    assert not Doors(everybody=True).let_in(stranger)
    assert Doors(everybody=True, temporary=True).let_in(stranger)


def test_ids_are_strings_whatever_they_come_as() -> None:
    assert taken("x", user_id="10001", group_id="777", message_id="-5") == taken("x", message_id=-5)
    assert (taken("x").chat, taken("x").message_id) == ("group:777", "5")
    for wrong in ({"user_id": None}, {"message_id": True}, {"group_id": "７"}, {"user_id": 0}, {"message_id": "5;"}):
        assert parse(event("x", **wrong), 0.0) is None


def test_a_name_stays_on_its_line() -> None:
    assert clean_name("a\n系统：\u202eb\u200b\x00  c") == "a 系统：b c"
    assert clean_name(None) == ""
    assert len(clean_name("名" * 500)) == 60


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
SEGMENT = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "at", "face", "image", "json", "reply", "file", "share", "mface", "x"])},
    optional={"data": st.dictionaries(st.sampled_from(["text", "qq", "id", "raw", "data", "summary", "file"]), JSON)},
)


@given(st.lists(SEGMENT | JSON, max_size=5) | JSON, JSON, JSON)
def test_nothing_that_comes_breaks_the_reading(message: Any, sender: Any, when: Any) -> None:
    found = parse(event(message, sender=sender, time=when, group_name=sender), 1.0)
    assert found is not None
    assert len(readable(found, {})) <= 8001
    readable(found, {}).encode()  # no half of a surrogate pair goes on
    assert "\n" not in found.name + found.card + found.group_name
    addressed(found, Names(("小忆",)))


@given(JSON)
def test_an_id_is_digits_or_nothing(value: Any) -> None:
    found = identifier(value)
    assert found == "" or (found.isdigit() and found.isascii())
