from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, strategies as st

from qqmem.output import ReplyText, parse_actions
from qqmem.records import Action, Message, Sender

PREFIX = "[2026-11-22 17:00] 小忆(QQ:1)："
ASKED = Message(
    id=3,
    conversation="group:7",
    role="user",
    message_id="m3",
    sender=Sender("10001", "小明"),
    text="在吗",
    reply_to=None,
    addressed=True,
    time=datetime(2026, 11, 22, tzinfo=UTC),
    turn=None,
    withdrawn=False,
)


def written(text: str) -> tuple[str, str, bool]:
    """The reply, what was shown of it, and whether it is silence."""
    reply = ReplyText()
    shown = "".join(map(reply.push, text)) + reply.close()
    return reply.text, shown, reply.is_silence


@pytest.mark.parametrize("text", ["<no_reply>", " \n<no_reply>\n", "<NO_Reply/>", PREFIX + "<no_reply>"])
def test_the_mark_alone_is_silence_and_never_shown(text: str) -> None:
    _, shown, is_silence = written(text)
    assert is_silence
    assert shown == ""


@pytest.mark.parametrize(
    "text",
    [
        "我可以写 <no_reply> 表示不说话。",
        "<no_reply> 是什么？",
        "<no_reply><no_reply>",
        "<no_rep",
        "<",
        '{"type": "POKE"}',
        '好：\n```json\n{"type": "EMOJI_LIKE", "emoji_id": 76}\n```',
        "[1] 第一点\n[2] 第二点",
        "[2026-11-22 17:00]",
        "[2026-11-22 17:00] 我们见面吧：带上(QQ:1)",
        "[2026-11-22 17:00] 我们见面，" + "好" * 120,
        "日程：\n[2026-11-22 17:00] 见面\n[2026-11-22 18:00] 吃饭",
        "日程：\n[2026-11-22 17:00",
    ],
)
def test_anything_else_is_text(text: str) -> None:
    assert written(text) == (text, text, False)


@pytest.mark.parametrize("between", ["\n", " \n\n\u3000"])
def test_the_reply_ends_where_the_model_goes_on_for_others(between: str) -> None:
    reply = ReplyText()
    shown = "".join(map(reply.push, "在的。" + between + PREFIX[:-1]))
    assert (shown, reply.is_over) == ("在的。", False)
    shown += reply.push("：") + reply.push("好吧\n再见") + reply.close()
    assert (shown, reply.text, reply.is_over) == ("在的。", "在的。", True)


@pytest.mark.parametrize("prefix", [PREFIX, "\n" + PREFIX + " ", "[2026-11-22 17:00]小 忆 (QQ:)：", PREFIX[:-1] + ":"])
def test_a_copied_prefix_is_removed_once(prefix: str) -> None:
    assert written(prefix + "在的") == ("在的", "在的", False)
    assert written(prefix + PREFIX + "在的")[0] == PREFIX + "在的"


def test_an_empty_text_is_empty_and_no_silence() -> None:
    assert written(" \n ") == ("", "", False)


def test_text_is_shown_as_soon_as_it_can_be_nothing_else() -> None:
    reply = ReplyText()
    assert reply.push("<no_") == ""
    assert reply.push("t") == "<no_t"
    assert reply.push("e> ") == "e>"
    assert reply.push("x") == " x"


pieces = st.sampled_from(
    [
        "<no_reply>",
        "<no_",
        "reply>",
        "<",
        PREFIX,
        PREFIX[:-1] + ":",
        PREFIX[:9],
        "[",
        "] ",
        "：",
        "\n",
        " ",
        "在",
        "(QQ:",
    ]
)


@given(st.lists(pieces, max_size=8))
@example([PREFIX[:-1], ":", " 在"])
@example(["<no_reply>", "\n", PREFIX])
@example(["在", "\n", PREFIX[:-1] + ":", "在", "\n", "["])
def test_what_was_shown_is_the_reply_however_it_is_cut(texts: list[str]) -> None:
    whole = written("".join(texts))
    reply = ReplyText()
    shown = "".join(map(reply.push, texts)) + reply.close()
    assert (reply.text, shown, reply.is_silence) == whole
    assert shown == ("" if reply.is_silence else reply.text)


# ---- actions ----------------------------------------------------------------------------------------------------

LIKE = Action("EMOJI_LIKE", emoji_id=76, message_id="m3")
POKE = Action("POKE", user_id="10001", target="user")


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ('{"type": "EMOJI_LIKE", "emoji_id": 76}', [LIKE]),
        (' {"type": "EMOJI_LIKE", "emoji_id": 76, "message_id": 12} ', [replace(LIKE, message_id="12")]),
        ('{"type": "EMOJI_LIKE", "emoji_id": 76, "target": "user"}', [replace(LIKE, target="user")]),
        ('{"type": "POKE"}', [POKE]),
        ('{"type": "POKE", "user_id": "10002"}', [replace(POKE, user_id="10002")]),
        ('{"type": "POKE"}{"type": "EMOJI_LIKE", "emoji_id": 76}', [POKE, LIKE]),
        ('{"type": "BAN"}{"type": "POKE"}', [POKE]),
    ],
)
def test_actions_are_read_and_completed(text: str, actions: list[Action]) -> None:
    assert list(parse_actions(text, ASKED)) == actions


@pytest.mark.parametrize(
    "text",
    [
        "",
        "戳一戳",
        "[]",
        "{}",
        '{"type": "EMOJI_LIKE"}',
        '{"type": "EMOJI_LIKE", "emoji_id": "赞"}',
        '{"type": "EMOJI_LIKE", "emoji_id": true}',
        '{"type": "EMOJI_LIKE", "emoji_id": 1e999}',
        '{"type": "EMOJI_LIKE", "emoji_id": -1}',
        '{"type": "EMOJI_LIKE", "emoji_id": 1114112}',
        '{"type": "EMOJI_LIKE", "emoji_id": ' + "9" * 5000 + "}",
        '{"type": "EMOJI_LIKE", "emoji_id": 76, "target": "group"}',
        '{"type": "EMOJI_LIKE", "emoji_id": 76',
        '{"a": ' + "[" * 100_000,
    ],
)
def test_what_is_no_action_is_dropped(text: str) -> None:
    assert parse_actions(text, ASKED) == ()


def test_a_message_without_an_id_may_still_be_liked() -> None:
    unnamed = replace(ASKED, message_id=None)
    assert parse_actions('{"type": "EMOJI_LIKE", "emoji_id": 76}', unnamed) == (replace(LIKE, message_id=None),)


@given(st.text(st.sampled_from('{}[]":,POKEtype 1'), max_size=80))
def test_no_text_does_harm(text: str) -> None:
    parse_actions(text, ASKED)
