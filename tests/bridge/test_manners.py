"""How the bot behaves in chats: mutes, rushes, commands, messages taken back, quotes, pokes, apologies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from qqmem_bridge.settings import Allow, Merge, PaceSettings
from tests.bridge.harness import ANN, BOB, GROUP, scene

PRIVATE = f"private:{ANN}"


async def test_nothing_is_sent_to_a_group_that_muted_the_bot(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.napcat.group_ban(GROUP, s.napcat.self_id, 600)
        frame = await s.service.wait("notice")
        assert (frame["kind"], frame["conversation"]) == ("muted", f"group:{GROUP}")
        assert frame["until"] > "2026"
        for n in (1, 2):
            await s.service.deliver(n, "hi")
            assert (await s.service.outcome(n))["reason"] == "muted"
        await s.kill()
        await s.start()  # a restart does not forget it
        await s.service.deliver(3, "hi")
        assert (await s.service.outcome(3))["reason"] == "muted"
        await s.service.deliver(4, "hi", chat=PRIVATE)
        assert (await s.service.outcome(4))["status"] == "sent"
        assert not [call for call in s.napcat.calls if call.action == "send_group_msg"]
        await s.napcat.group_ban(GROUP, s.napcat.self_id, 0)
        assert (await s.service.wait("notice", 2))["kind"] == "unmuted"
        await s.service.deliver(5, "hi")
        assert (await s.service.outcome(5))["status"] == "sent"


async def test_what_happens_to_others_is_no_mute_and_what_happens_to_all_is(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        everybody = {
            "post_type": "notice", "notice_type": "group_ban", "self_id": s.napcat.self_id, "group_id": GROUP,
            "user_id": 0,
        }  # fmt: skip
        await s.napcat.group_ban(GROUP, BOB, 600)
        await s.napcat.group_decrease(GROUP, BOB, "kick")
        await s.napcat.inject(everybody | {"sub_type": "ban", "duration": -1})
        assert "until" not in await s.service.wait("notice")
        await s.napcat.group_increase(GROUP, BOB)
        await s.napcat.group_ban(GROUP, BOB, 0)
        await s.napcat.poke(ANN, None, GROUP)
        await s.service.wait("notice", 2)
        await s.service.deliver(1, "hi")
        assert (await s.service.outcome(1))["reason"] == "muted"
        await s.napcat.inject(everybody | {"sub_type": "lift_ban", "duration": 0})
        await s.service.wait("notice", 3)
        await s.service.deliver(2, "hi")
        assert (await s.service.outcome(2))["status"] == "sent"
        assert [frame["kind"] for frame in s.service.of("notice")] == ["muted", "poke", "unmuted"]


@pytest.mark.parametrize("like", ["muted", "kicked"])
async def test_a_mute_that_nobody_told_of_is_learnt_once(bench: Any, tmp_path: Path, like: str) -> None:
    async with scene(bench, tmp_path) as s:
        s.napcat.fail("send_group_msg", like=like)
        for n in (1, 2, 3):
            await s.service.deliver(n, "hi")
        for n in (1, 2, 3):
            assert (await s.service.outcome(n))["status"] == "failed"
        assert len([call for call in s.napcat.calls if call.action == "send_group_msg"]) == 1


async def test_a_chat_rests_after_three_unknown_outcomes(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        s.napcat.fail("send_group_msg", times=3, like="timeout")
        for n in (1, 2, 3, 4):
            await s.service.deliver(n, f"hi {n}")
        assert [(await s.service.outcome(n))["status"] for n in (1, 2, 3, 4)] == ["unknown"] * 3 + ["failed"]
        assert len([call for call in s.napcat.calls if call.action == "send_group_msg"]) == 3


async def test_a_chat_where_messages_arrive_in_between_does_not_rest(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        told = []
        for n in range(1, 7):
            if n % 3:
                s.napcat.fail("send_group_msg", like="timeout")
            await s.service.deliver(n, f"hi {n}")
            told.append((await s.service.outcome(n))["status"])
        assert told == ["unknown", "unknown", "sent"] * 2


async def test_a_rush_is_handed_on_together_and_a_command_at_once(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path, merge=Merge(quiet=20, longest=40, most=10)) as s:
        await s.napcat.group_message(GROUP, ANN, "first")  # not addressed: not held
        await s.service.wait("message")
        await s.napcat.group_message(GROUP, ANN, [bench.at(s.napcat.self_id), bench.text("look")])
        await s.napcat.group_message(GROUP, BOB, "between")
        await s.napcat.group_message(GROUP, ANN, [bench.image()])
        await s.napcat.wait_call("get_group_member_info")
        assert len(s.service.frames) == 1
        await s.service.wait("message", 4)
        assert [frame["text"] for frame in s.service.of("message")] == ["first", "look", "between", "[图片]"]
        await s.napcat.private_message(ANN, "hm")
        await s.napcat.private_message(ANN, "/help")
        await asyncio.wait_for(s.service.wait("message", 6), 0.35)  # 20 s of the clock are 0.8 s


async def test_a_rush_lasts_while_somebody_goes_on_writing(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path, merge=Merge(quiet=30, longest=60)) as s:
        await s.napcat.private_message(ANN, "one")
        while PRIVATE not in s.bridge.inbound._holds:
            await s.bridge.store.depth()
        hold = s.bridge.inbound._holds[PRIVATE]
        due = hold.due
        stops = {"post_type": "notice", "notice_type": "notify", "sub_type": "input_status", "event_type": 2}
        await s.napcat.inject(stops | {"self_id": s.napcat.self_id, "user_id": ANN, "group_id": 0})
        await s.napcat.poke(ANN)
        await s.service.wait("notice")
        assert hold.due == due
        await s.napcat.typing(ANN)
        await s.napcat.poke(ANN)
        await s.service.wait("notice", 2)
        assert due is not None
        assert hold.due is not None
        assert hold.due > due


async def test_what_is_held_survives_a_kill(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path, merge=Merge(quiet=30, longest=60, most=10)) as s:
        await s.napcat.private_message(ANN, "held")
        while not await s.bridge.store.unfinished():
            pass
        await s.kill()
        assert not s.service.frames
        await s.start()
        assert (await s.service.wait("message"))["text"] == "held"


async def test_stop_ends_what_waits(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.napcat.bot_offline()  # so that the reply waits
        await s.service.changes.until(lambda: s.service.statuses and not s.service.statuses[-1]["online"])
        await s.service.deliver(1, "long story", chat=PRIVATE)
        await s.service.changes.until(lambda: s.bridge.counters["deliveries"])
        await s.napcat.private_message(ANN, [bench.image(), bench.text("/stop")])
        assert (await s.service.wait("cancel"))["conversation"] == PRIVATE
        assert (await s.service.outcome(1))["reason"] == "stopped"
        assert not s.service.of("message")
        await s.napcat.group_message(GROUP, ANN, "/stop")  # neither addressed nor an admin
        await s.napcat.group_message(GROUP, BOB, "/stop")
        await s.service.wait("cancel", 2)
        assert [frame["type"] for frame in s.service.frames[2:]] == ["message", "cancel"]
        assert not s.bridge.inbound._fetching


async def test_a_message_taken_back_is_forgotten_and_not_answered(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        mid = await s.napcat.private_message(ANN, "oops")
        await s.service.wait("message")
        await s.napcat.recall(mid)
        frame = await s.service.wait("withdraw")
        assert (frame["conversation"], frame["message_id"]) == (PRIVATE, str(mid))
        await s.service.say(type="turn", conversation=PRIVATE, state="ended", outcome="failed", message_ids=[str(mid)])
        await s.service.deliver(1, "what?", chat=PRIVATE, in_reply_to=[str(mid)])
        assert (await s.service.outcome(1))["reason"] == "withdrawn"
        assert not s.napcat.sent
        other = await s.napcat.private_message(ANN, "again")
        await s.service.wait("message", 2)
        for n, answered in ((2, [str(mid), str(other)]), (3, ["4242"])):  # one stays; one is not known
            await s.service.deliver(n, "hi", chat=PRIVATE, in_reply_to=answered)
            assert (await s.service.outcome(n))["status"] == "sent"


async def test_a_message_taken_back_while_it_is_held_is_never_told_of(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path, merge=Merge(quiet=30, longest=60)) as s:
        oops = await s.napcat.private_message(ANN, "oops")
        one = await s.napcat.private_message(ANN, "one")
        await s.napcat.recall(oops)
        await s.service.wait("message")
        await s.napcat.private_message(ANN, "two")
        await s.napcat.recall(one)  # which is told behind what is held
        await s.service.wait("withdraw")
        await s.kill()
        await s.start()
        await s.napcat.private_message(ANN, "/three")
        await s.service.wait("message", 3)
        told = [(frame["type"], frame.get("text", frame["message_id"])) for frame in s.service.frames]
        assert told == [("message", "one"), ("message", "two"), ("withdraw", str(one)), ("message", "/three")]


async def test_quoting(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        mid = await s.napcat.group_message(GROUP, ANN, [bench.at(s.napcat.self_id)])
        await s.service.wait("message")
        await s.service.deliver(1, "at once", in_reply_to=[str(mid)])
        await s.service.outcome(1)
        await s.napcat.group_message(GROUP, BOB, "in between")
        await s.service.wait("message", 2)
        await s.service.deliver(2, "later", in_reply_to=[str(mid)])
        await s.service.outcome(2)
        s.napcat.restart_tables()  # QQ's side no longer knows the message
        await s.service.deliver(3, "lost", in_reply_to=[str(mid)])
        await s.service.outcome(3)
        private = await s.napcat.private_message(ANN, "hi")
        await s.service.wait("message", 3)
        await s.service.deliver(4, "psst", chat=PRIVATE, quote=str(private), at=str(ANN))
        await s.service.outcome(4)
        assert [(one.reply_to, one.ats) for one in s.napcat.sent] == [
            (None, []),
            (mid, []),
            (None, ["10001"]),
            (None, []),
        ]


async def test_a_late_reply_quotes_what_it_answers(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        mid = await s.napcat.group_message(GROUP, ANN, [bench.at(s.napcat.self_id)])
        await s.service.wait("message")
        s.clock.ahead += 9
        await s.service.deliver(1, "sorry", in_reply_to=[str(mid)])
        await s.service.outcome(1)
        assert [one.reply_to for one in s.napcat.sent] == [mid]


async def test_a_gap_is_filled_with_context_once(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.napcat.group_message(GROUP, ANN, "before")
        await s.service.wait("message")
        await s.napcat.go_down()
        await s.napcat.group_message(GROUP, ANN, [bench.at(s.napcat.self_id), bench.text("missed")], t=1795361368)
        await s.napcat.go_up()
        await s.napcat.wait_connected()
        frame = await s.service.wait("message", 2)
        assert (frame["text"], frame["addressed"], frame["context_only"]) == ("missed", False, True)
        await s.napcat.drop()
        await s.napcat.wait_connected()
        await s.napcat.group_message(GROUP, ANN, "after")
        assert (await s.service.wait("message", 3))["text"] == "after"


async def test_a_gap_is_filled_with_nothing_but_what_is_let_in(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path, allow=Allow(groups=(str(GROUP), "888888"), denied=(str(BOB),))) as s:
        await s.napcat.group_message(GROUP, ANN, "before")
        await s.service.wait("message")
        said = [
            (s.napcat.self_id, GROUP, "own"),
            (BOB, GROUP, "denied"),
            (ANN, 888888, "there"),
            (ANN, GROUP, "missed"),
        ]
        s.napcat.custom["get_group_msg_history"] = lambda _: {
            "messages": [
                {"self_id": s.napcat.self_id, "message_type": "group", "group_id": group, "user_id": user,
                 "message_id": 900 + n, "time": 1795361368, "message": text}
                for n, (user, group, text) in enumerate(said)
            ]
        }  # fmt: skip
        await s.napcat.drop()
        await s.service.wait("message", 2)
        assert [frame["text"] for frame in s.service.of("message")] == ["before", "missed"]


async def test_a_group_that_is_no_longer_listed_is_not_asked_for_a_gap(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.napcat.group_message(888888, ANN, "before")
        await s.napcat.group_message(GROUP, ANN, "before")
        await s.service.wait("message", 2)
        await s.kill()
        s.settings = s.settings.model_copy(update={"allow": Allow(groups=(str(GROUP),))})
        s.napcat.clear()
        await s.start()
        await s.napcat.wait_call("get_group_msg_history", group_id=str(GROUP))
        assert len([call for call in s.napcat.calls if call.action == "get_group_msg_history"]) == 1


async def test_what_arrives_while_a_gap_is_filled_is_answered(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.napcat.group_message(GROUP, ANN, "before")
        await s.service.wait("message")

        async def history(params: Any) -> Any:  # it holds the message that also comes by itself
            await s.napcat.group_message(GROUP, ANN, [bench.at(s.napcat.self_id), bench.text("now")])
            return s.napcat._history("group", GROUP, params)

        s.napcat.custom["get_group_msg_history"] = history
        await s.napcat.drop()
        frame = await s.service.wait("message", 2)
        assert (frame["text"], frame["addressed"], "context_only" in frame) == ("now", True, False)


async def test_pokes_and_kicks_are_told(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.napcat.poke(ANN, None, GROUP)
        await s.napcat.poke(ANN, BOB, GROUP)
        await s.napcat.poke(ANN)
        await s.napcat.group_decrease(GROUP, s.napcat.self_id, "kick_me")
        await s.napcat.group_increase(GROUP, s.napcat.self_id)
        await s.service.wait("notice", 4)
        told = [(frame["conversation"], frame["kind"], frame.get("user_id")) for frame in s.service.of("notice")]
        assert sorted(told) == [
            ("group:777", "joined", None), ("group:777", "kicked", None), ("group:777", "poke", "10001"),
            (PRIVATE, "poke", "10001"),
        ]  # fmt: skip


async def test_pokes_and_reactions_of_who_is_not_let_in_are_not_told(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path, allow=Allow(groups=(str(GROUP),), denied=(str(BOB),))) as s:
        await s.service.deliver(1, "mine")
        mine = (await s.service.outcome(1))["message_ids"][0]
        await s.napcat.poke(ANN, None, 999999)
        await s.napcat.poke(ANN)
        await s.napcat.poke(BOB, None, GROUP)
        await s.napcat.emoji_like(GROUP, BOB, mine)
        await s.napcat.poke(s.napcat.self_id, None, GROUP)
        await s.napcat.emoji_like(GROUP, ANN, mine)
        assert (await s.service.wait("notice"))["kind"] == "reaction"
        assert len(s.service.frames) == 2


async def test_actions(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        mid = await s.napcat.group_message(GROUP, ANN, "nice")
        actions = [
            {"type": "EMOJI_LIKE", "message_id": str(mid), "emoji_id": 76},
            {"type": "POKE", "user_id": "10001"},
            {"type": "EXPLODE"},
            {"type": "EMOJI_LIKE", "message_id": "77", "emoji_id": 76},
        ]
        await s.service.deliver(1, [], actions=actions)
        assert (await s.service.outcome(1))["status"] == "sent"
        assert s.napcat.reactions == {mid: {"76": True}}
        assert (await s.napcat.wait_call("group_poke")).params == {"group_id": "777", "user_id": "10001"}
        await s.service.deliver(2, [], chat=PRIVATE, actions=actions[:1])  # there are none in private
        await s.service.deliver(3, [], actions=[{"type": "POKE", "user_id": "10002"}] * 9)
        await s.service.outcome(2)
        await s.service.outcome(3)
        done = [call.action for call in s.napcat.calls]
        assert (done.count("set_msg_emoji_like"), done.count("group_poke")) == (2, 1 + 5)


async def test_an_apology_comes_once_and_only_to_who_asked(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        private = str(await s.napcat.private_message(ANN, "hi"))
        overheard = str(await s.napcat.group_message(GROUP, ANN, "hi"))
        await s.service.wait("message", 2)
        await s.service.say(type="turn", conversation=PRIVATE, state="started", outcome=None, message_ids=[private])
        for chat, mid in ((f"group:{GROUP}", overheard), (PRIVATE, private), (PRIVATE, private)):
            await s.service.say(type="turn", conversation=chat, state="ended", outcome="failed", message_ids=[mid])
        await s.napcat.wait_sent(user_id=ANN)
        await s.service.deliver(1, "done", chat=PRIVATE)
        await s.service.outcome(1)
        assert [(one.target, one.plain_text[:2]) for one in s.napcat.sent] == [(ANN, "抱歉"), (ANN, "do")]
        assert s.bridge.counters["apologies"] == 1
        assert s.bridge.counters["malformed"] == 0


async def test_a_reaction_to_what_the_bot_said_is_told(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        theirs = await s.napcat.group_message(GROUP, ANN, "hi", card="小明")
        await s.service.deliver(1, "mine")
        mine = (await s.service.outcome(1))["message_ids"][0]
        await s.napcat.emoji_like(GROUP, ANN, theirs)
        await s.napcat.emoji_like(GROUP, s.napcat.self_id, mine)
        await s.napcat.emoji_like(GROUP, ANN, mine, is_add=False)
        for likes in (None, [], [5], [{"emoji_id": "x"}]):
            await s.napcat.inject(
                {"post_type": "notice", "notice_type": "group_msg_emoji_like", "group_id": GROUP, "user_id": ANN,
                 "message_id": mine, "likes": likes}
            )  # fmt: skip
        await s.napcat.emoji_like(GROUP, ANN, mine, "66")
        told = await s.service.wait("notice")
        assert told.pop("time") > "2026"
        del told["seq"]
        assert told == {
            "type": "notice", "conversation": f"group:{GROUP}", "kind": "reaction", "user_id": str(ANN),
            "message_id": mine, "emoji_id": "66", "name": "小明",
        }  # fmt: skip


async def test_an_emoji_shows_in_a_group_that_a_reply_is_written(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path, reaction=66) as s:
        mid = await s.napcat.group_message(GROUP, ANN, [bench.at(s.napcat.self_id), bench.text("hi")])
        await s.service.wait("message")
        await s.service.say(type="turn", conversation=f"group:{GROUP}", state="started", message_ids=[])  # of a poke
        s.napcat.lose_response("set_msg_emoji_like")
        await s.service.say(type="turn", conversation=f"group:{GROUP}", state="started", message_ids=[str(mid)])
        await s.napcat.wait_call("set_msg_emoji_like")  # and it ends, without a reply, before that is answered
        await s.service.say(type="turn", conversation=f"group:{GROUP}", state="ended", message_ids=[])
        await s.napcat.wait(lambda: s.napcat.reactions == {mid: {"66": False}})
        await s.service.say(type="turn", conversation=f"group:{GROUP}", state="started", message_ids=[str(mid)])
        await s.napcat.wait_call("set_msg_emoji_like", count=3)
        assert s.napcat.reactions == {mid: {"66": True}}
        await s.service.deliver(1, "hello")
        await s.napcat.wait_call("set_msg_emoji_like", count=4)
        await s.service.outcome(1)
        assert s.napcat.reactions == {mid: {"66": False}}


async def test_two_bots_do_not_talk_for_ever(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path, rounds=2) as s:
        s.clock.speed = 1.0
        at = bench.at(s.napcat.self_id)
        for n in range(1, 5):
            await s.napcat.group_message(GROUP, BOB, [at, bench.text(f"{n}")])
            frame = await s.service.wait("message", n)
            if not frame.get("context_only"):
                await s.service.deliver(n, f"re {n}")
                await s.service.outcome(n)
        await s.napcat.group_message(GROUP, ANN, [at, bench.text("5")])
        await s.service.wait("message", 5)
        heard = [(frame["addressed"], frame.get("context_only", False)) for frame in s.service.of("message")]
        assert heard == [(True, False)] * 3 + [(False, True), (True, False)]
        assert s.bridge.counters["rounds_capped"] == 1
        await s.napcat.group_message(GROUP, BOB, [bench.image(), bench.text("6")])
        await s.service.wait("message", 6)
        assert not s.bridge.inbound._fetching  # nobody waits for their pictures


async def test_a_withdrawn_message_stops_what_waits_for_its_turn(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        mid = await s.napcat.private_message(ANN, "oops")
        await s.service.wait("message")
        await s.napcat.bot_offline()  # so that the reply waits
        await s.service.changes.until(lambda: s.service.statuses and not s.service.statuses[-1]["online"])
        await s.service.deliver(1, ["what", "do you mean?"], chat=PRIVATE, in_reply_to=[str(mid)])
        await s.service.changes.until(lambda: s.bridge.counters["deliveries"])
        await s.napcat.recall(mid)
        assert (await s.service.outcome(1))["reason"] == "withdrawn"
        assert not s.napcat.sent


async def test_a_withdrawn_message_stops_what_waits_for_its_pace(bench: Any, tmp_path: Path) -> None:
    slow = PaceSettings(gap=0, jitter=0, per_minute=2, burst=1)
    async with scene(bench, tmp_path, pace=slow) as s:
        mid = await s.napcat.private_message(ANN, "oops")
        await s.service.wait("message")
        await s.service.deliver(1, "hi")
        await s.service.outcome(1)
        await s.service.deliver(2, "what?", chat=PRIVATE, in_reply_to=[str(mid)])
        while not s.bridge.sender._account.locked():
            await s.bridge.store.depth()
        await s.napcat.recall(mid)
        assert (await s.service.outcome(2))["reason"] == "withdrawn"
        assert len(s.napcat.sent) == 1
