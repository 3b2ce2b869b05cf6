from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, strategies as st

from qqmem.errors import InvalidRequest
from qqmem.memory.exchange import decode, encode
from qqmem.memory.types import Memory
from tests.memory.records import NOW

FULL = Memory(
    id=41,
    kind="message",
    scope="member:10001@7",
    text='我说\n"猫"\\ 😀\u2028',
    valid_from=NOW,
    subject_id="10002",
    speaker_id="10001",
    speaker_name="小明",
    conversation="group:7",
    sources=(3, 8),
    state="superseded",
    created_at=NOW + timedelta(microseconds=1),
    valid_to=NOW + timedelta(days=1),
    superseded_by=42,
    pinned=True,
    hits=5,
    used_at=NOW + timedelta(hours=2),
    decodable="0003",
)
TIMES = st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC))
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


def line(**fields: Any) -> bytes:
    return json.dumps({"scope": "global", "text": "猫"} | fields).encode()


def test_a_memory_comes_back_as_it_was_in_one_readable_line() -> None:
    assert decode(encode(FULL).encode()) == FULL
    assert "小明" in encode(FULL)
    assert "\n" not in encode(FULL)


@given(
    st.builds(
        Memory,
        id=st.integers(0, 2**63 - 1),
        scope=st.sampled_from(["global", "user:1", "group:7", "member:1@7"]),
        text=TEXTS.filter(str.strip),
        valid_from=TIMES,
        subject_id=TEXTS,
        speaker_id=TEXTS,
        speaker_name=TEXTS,
        conversation=TEXTS,
        sources=st.sets(st.integers(0, 2**63 - 1), max_size=3).map(lambda ids: tuple(sorted(ids))),
        state=st.sampled_from(["searchable", "superseded", "expired"]),
        created_at=TIMES,
        valid_to=st.none() | TIMES,
        superseded_by=st.none() | st.integers(0, 2**63 - 1),
        pinned=st.booleans(),
        hits=st.integers(0, 2**63 - 1),
        used_at=st.none() | TIMES,
        decodable=TEXTS,
    )
)
def test_any_memory_comes_back_as_it_was(memory: Memory) -> None:
    assert decode(encode(memory).encode()) == memory


def test_a_line_by_hand_needs_a_scope_and_a_text() -> None:
    before = datetime.now(UTC)
    memory = decode("\ufeff".encode() + line())
    assert before <= memory.created_at == memory.valid_from <= datetime.now(UTC)
    now = memory.created_at
    assert memory == Memory(0, "fact", "global", "猫", now, "", "", "", "", (), "searchable", now)


def test_sources_are_put_in_order_and_times_in_utc() -> None:
    memory = decode(line(sources=[8, 3, 8], valid_from="2026-11-23T01:00:00+08:00"))
    assert memory.sources == (3, 8)
    assert memory.valid_from == NOW.astimezone(timezone(timedelta(hours=8)))
    assert memory.valid_from.tzinfo is UTC


def test_what_was_deleted_is_never_written() -> None:
    with pytest.raises(AssertionError):
        encode(replace(FULL, state="deleted"))


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"\xff\xfe", "no UTF-8"),
        ('{"scope": "global", "text": "小明"}'.encode("gbk"), "no UTF-8"),
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"1" * 5_000, "no JSON"),
        (b"[1]", "no JSON object"),
        (b"null", "no JSON object"),
        (b'{"text": "x"}', "no `scope`"),
        (b'{"scope": "global"}', "no `text`"),
        (line(state="deleted"), "`state` is wrong"),
        (line(state=["searchable"]), "`state` is wrong"),
        (line(kind="rumour"), "`kind` is wrong; it has to be fact or message"),
        (line(text=5), "`text` is wrong"),
        (line(text=" "), "needs a text"),
        (line(text="x" * 2_001), "2,000"),
        (line(text="a\0b"), "no text"),
        (line(text="\ud800"), "no text"),
        (line(speaker_name="\udfff"), "no text"),
        (line(scope="everybody"), "no such scope"),
        (line(scope=None), "`scope` is wrong"),
        (line(valid_from="yesterday"), "`valid_from` is wrong"),
        (line(valid_from="2026-11-22T17:00:00"), "with its zone"),
        (line(valid_from="0001-01-01T00:00:00+08:00"), "`valid_from` is wrong"),
        (line(valid_from=None), "`valid_from` is wrong"),
        (line(valid_to=5), "`valid_to` is wrong"),
        (line(id=True), "`id` is wrong"),
        (line(id=-1), "`id` is wrong"),
        (line(id=2**63), "`id` is wrong"),
        (line(hits=1.5), "`hits` is wrong"),
        (line(sources="12"), "`sources` is wrong"),
        (line(sources=[1, "2"]), "`sources` is wrong"),
        (line(superseded_by="4"), "`superseded_by` is wrong"),
        (line(pinned=1), "`pinned` is wrong"),
        (line(txet="x"), "no field `txet`"),
    ],
)
def test_a_bad_line_says_what_is_wrong(raw: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        decode(raw)


@given(
    st.binary()
    | st.dictionaries(st.sampled_from([*asdict(FULL)]), st.none() | TEXTS | st.floats()).map(
        lambda found: json.dumps(found).encode()
    )
)
def test_any_line_is_a_memory_or_refused(raw: bytes) -> None:
    try:
        decode(raw)
    except InvalidRequest:
        pass
