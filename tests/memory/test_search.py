from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from qqmem.memory.embed import unit
from qqmem.memory.search import (
    DAY_ZERO,
    Fusion,
    Lexicon,
    Texts,
    calibrate,
    calibration_texts,
    can_answer,
    floor,
    strengths,
    unrelated,
)
from qqmem.memory.types import Kind, Lane, Memory, Space, Vectors
from qqmem.memory.words import RARE, Segmenter
from tests.memory.encoders import DIM, Letters

NOW = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)


def memory(id: int, text: str = "年糕是一只猫", kind: Kind = "fact") -> Memory:
    return Memory(id, kind, "global", text, NOW, "", "", "", "", (), "searchable", NOW)


def cohort(seed: int, num: int = 30, dim: int = 24) -> Vectors:
    return unit(np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32) + 0.3)


SPACE = Space("s", 24, np.zeros(24, np.float32), cohort(1), cohort(2), 0.0)


# Strengths


def test_a_strength_is_the_mean_of_two_z_scores() -> None:
    query, key = cohort(3)[0], cohort(4)[:1]
    score = float(key[0] @ query)
    of_query, of_key = SPACE.cohort_keys @ query, SPACE.cohort_queries @ key[0]
    wanted = ((score - of_query.mean()) / of_query.std() + (score - of_key.mean()) / of_key.std()) / 2
    np.testing.assert_allclose(strengths(SPACE, query, key), [wanted], rtol=1e-4)


def test_a_key_that_is_near_everything_is_not_strong_for_it() -> None:
    hub = unit(SPACE.cohort_queries.mean(axis=0))
    query = cohort(3)[0]
    other = unit(0.5 * query + 0.5 * unit(np.random.default_rng(9).normal(size=24).astype(np.float32)))
    keys = np.array([hub, other])
    cosines, normalised = keys @ query, strengths(SPACE, query, keys)
    assert normalised[1] - normalised[0] > 3 * (cosines[1] - cosines[0])
    assert normalised[0] < 1


def test_no_candidates_have_no_strengths() -> None:
    assert strengths(SPACE, cohort(3)[0], np.zeros((0, 24), np.float32)).shape == (0,)


def test_a_space_without_any_spread_gives_finite_strengths() -> None:
    flat = np.ones((5, 24), np.float32) / np.sqrt(np.float32(24))
    space = Space("s", 24, np.zeros(24, np.float32), flat, flat, 0.0)
    assert np.isfinite(strengths(space, flat[0], cohort(1))).all()
    assert np.isfinite(unrelated(space)).all()


def test_an_unrelated_pair_does_not_count_in_its_own_cohort() -> None:
    scores = SPACE.cohort_queries @ SPACE.cohort_keys.T
    row, column = np.delete(scores[4], 7), np.delete(scores[:, 7], 4)
    wanted = ((scores[4, 7] - row.mean()) / row.std() + (scores[4, 7] - column.mean()) / column.std()) / 2
    assert unrelated(SPACE)[4, 7] == pytest.approx(wanted, rel=1e-3)


def test_the_floor_is_what_the_best_unrelated_key_reaches_once_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    at = floor(rng.normal(size=(3000, 60)).astype(np.float32))
    best = rng.normal(size=(20_000, 60)).max(axis=1)
    assert (best > at).mean() == pytest.approx(0.01, abs=0.005)


# Calibration


def test_the_calibration_texts_are_many_different_and_of_both_languages() -> None:
    texts = calibration_texts()
    for some in (texts.statements, texts.queries):
        assert len(some) >= 60
        assert len(set(some)) == len(some)
        assert 5 <= sum(text.isascii() for text in some) <= 20
    assert all(can_answer(memory(1, text, "message")) for text in texts.statements)


async def test_a_space_is_made_of_the_calibration_texts() -> None:
    texts = Texts(["我养猫", "他爱钓鱼", "她会滑雪"], ["几点了？", "讲个笑话"])
    space = await calibrate(Letters(), texts, centred=True)
    assert space.id == f"letters/{texts.digest}"
    assert texts.digest != Texts(texts.statements, texts.queries[:1]).digest
    keys = await Letters().keys(texts.statements)
    np.testing.assert_allclose(space.centre, unit(keys).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(space.cohort_keys, unit(unit(keys) - space.centre), atol=1e-5)
    assert space.cohort_queries.shape == (2, DIM)
    np.testing.assert_allclose(np.linalg.norm(space.cohort_keys, axis=1), 1, atol=1e-5)
    assert space.floor == floor(unrelated(space))
    plain = await calibrate(Letters(), texts, centred=False)
    assert not plain.centre.any()


# Words


@pytest.fixture
def lexicon(segmenter: Segmenter) -> Lexicon:
    return Lexicon(segmenter)


def test_rare_words_count_for_more(lexicon: Lexicon) -> None:
    rare, common = lexicon.covered("年糕喜欢什么", ["年糕三岁", "他喜欢猫"])
    assert rare > common > 0


@pytest.mark.parametrize(
    ("query", "text", "share"),
    [
        ("林浩喜欢吃什么", "什么？林浩，喜欢，吃", 1.0),
        ("小红的狗", "今天下雨", 0.0),
        ("", "小红", 0.0),
        ("？！", "？！", 0.0),
        ('" OR * NEAR(', '"', 0.0),
        ("Emily", "my sister EMILY", 1.0),
    ],
)
def test_coverage(lexicon: Lexicon, query: str, text: str, share: float) -> None:
    asked = sum(lexicon._asked(query).values())
    assert lexicon.covered(query, [text]) == [pytest.approx(share * asked / (asked + RARE))]


def test_a_single_common_word_is_little_evidence(lexicon: Lexicon) -> None:
    (common,), (name,) = lexicon.covered("好的", ["菜是好的"]), lexicon.covered("年糕", ["年糕三岁"])
    assert common < name < lexicon.covered("年糕和豆包", ["年糕和豆包三岁"])[0]


# Fusion

NOISE: Vectors = np.random.default_rng(0).normal(size=(60, 60)).astype(np.float32)
SHARES: Vectors = (np.abs(NOISE) / 20).astype(np.float32)
FOUND: Any = {"text": {1: (0.9, 2.0), 2: (0.8, 5.0), 3: (0.7, 0.0)}, "lexical": {1: (4.0, 1.0), 3: (9.0, 0.1)}}


def fusion(**weights: float) -> Fusion:
    lanes: dict[Lane, Vectors] = {"text": NOISE, "lexical": SHARES, "state": NOISE}
    return Fusion({**DAY_ZERO, **weights}, lanes)  # type: ignore[dict-item]


def test_a_score_is_the_weighted_sum_of_the_strengths() -> None:
    hits = fusion(text=1, lexical=4).hits([memory(1), memory(2), memory(3), memory(4)], FOUND)
    assert [(hit.memory.id, round(hit.score, 3)) for hit in hits] == [(1, 6.0), (2, 5.0), (3, 0.4), (4, 0.0)]
    assert [hit.fits for hit in hits] == [True, True, False, False]


def test_a_hit_says_what_each_lane_had_to_say() -> None:
    (first, second, _) = fusion(text=1, lexical=4).hits([memory(1), memory(2), memory(3)], FOUND)
    assert {lane: (at.rank, at.score, at.strength) for lane, at in first.lanes.items()} == {
        "text": (1, 0.9, 2.0),
        "lexical": (2, 4.0, 1.0),
    }
    assert list(second.lanes) == ["text"]


def test_equal_scores_come_newest_first() -> None:
    hits = fusion().hits([memory(1), memory(7), memory(3)], {"text": {1: (0, 1), 7: (0, 1), 3: (0, 1)}})
    assert [hit.memory.id for hit in hits] == [7, 3, 1]


def test_the_floor_is_that_of_the_lanes_that_took_part() -> None:
    words_alone = fusion().hits([memory(1), memory(3)], {"lexical": FOUND["lexical"]})
    assert [hit.fits for hit in words_alone] == [True, False]
    with_text = fusion().hits([memory(1)], {"text": {1: (0.5, -3.0)}, "lexical": {1: (1.0, 0.4)}})
    assert not with_text[0].fits


def test_lanes_without_weight_decide_only_if_there_are_no_others() -> None:
    state: Any = {"state": {1: (0.9, 9.0), 2: (0.8, 0.0)}}
    assert [hit.memory.id for hit in fusion().hits([memory(1), memory(2)], {**state, "text": {2: (0.5, 1.0)}})] == [
        2,
        1,
    ]
    alone = fusion().hits([memory(1), memory(2)], state)
    assert [(hit.memory.id, hit.fits) for hit in alone] == [(1, True), (2, False)]


def test_nothing_found_is_nothing() -> None:
    assert fusion().hits([], {}) == []
    assert fusion().hits([], {"lexical": {}}) == []


# What answers


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("我的猫叫什么名字？", False),
        ("你还记得我的猫吗", False),
        ("小明住哪里啊", False),
        ("What's my cat's name?", False),
        ("Do you remember me", False),
        ("嗯", False),
        ("哈哈！", False),
        ("？？？", False),
        ("😀😀😀😀", False),
        ("", False),
        ("我的猫叫年糕", True),
        ("我的猫叫年糕。你的呢？", True),
        ("你知道吗？我考上浙大了！", True),
        ("下周三考试", True),
        ("我失恋了，这几天都没什么胃口", True),
        ("我失业了，不知道怎么办", True),
        ("他什么都不吃", True),
        ("上次说的那家店叫什么", False),
        ("现在几点", False),
        ("I moved to Leeds. Do you know it?", True),
    ],
)
def test_what_only_asks_is_no_answer(text: str, answers: bool) -> None:
    assert can_answer(memory(1, text, "message")) is answers
    assert can_answer(memory(1, text, "fact"))
