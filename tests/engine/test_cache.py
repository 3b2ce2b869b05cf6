"""The KV of conversations: what is handed over, what is copied, and what the budget drops."""

from __future__ import annotations

import torch
from hypothesis import given, strategies as st

from qqmem.engine.cache import KV, PrefixCache, common_prefix

LAYERS, BYTES = 2, 2 * 2 * 1 * 256 * 4 * 4
"""Bytes of one KV below: layers, keys and values, heads, a block, width, float32."""


def read(kv: KV, tokens: list[int]) -> KV:
    """Read tokens; the keys are the tokens themselves, the values their negatives."""
    for layer in range(LAYERS):
        keys = torch.tensor(tokens, dtype=torch.float32)[None, :, None].expand(1, -1, 4)
        kv.append(layer, keys, -keys)
    kv.commit(tokens)
    return kv


def held(kv: KV, layer: int) -> list[int]:
    probe = torch.zeros(1, 0, 4)
    keys, values = kv.append(layer, probe, probe)
    assert torch.equal(keys, -values)
    return [int(t) for t in keys[0, :, 0]]


def shared(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_a_sequence_goes_on_where_the_model_has_moved() -> None:
    kv = read(KV(), [1, 2, 3])
    keys = torch.zeros(1, 1, 4, device="meta")
    assert kv.append(0, keys, keys).shape == (2, 1, 4, 4)
    assert kv.append(0, keys, keys).device.type == "meta"


ids = st.lists(st.integers(0, 3), max_size=12)


@given(ids, ids)
def test_common_prefix_is_that_of_a_loop(a: list[int], b: list[int]) -> None:
    assert common_prefix(a, b) == shared(a, b)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 2), min_size=1, max_size=600)), max_size=12))
def test_what_is_taken_is_the_longest_known_prefix_and_holds_it(turns: list[tuple[str, list[int]]]) -> None:
    cache, known = PrefixCache(1 << 30), dict[str, list[int]]()
    for conversation, prompt in turns:
        best = max((shared(k, prompt) for k in known.values()), default=0)
        kv = cache.take(conversation, tuple(prompt))
        assert kv.tokens == prompt[: min(best, len(prompt) - 1)]
        if kv.length:
            assert all(held(kv, layer) == kv.tokens for layer in range(LAYERS))
        read(kv, prompt[kv.length :])
        assert all(held(kv, layer) == prompt for layer in range(LAYERS))
        cache.keep(conversation, kv)
        known[conversation] = prompt


def test_a_copy_and_its_origin_do_not_share_memory() -> None:
    cache = PrefixCache(1 << 30)
    cache.keep("a", read(KV(), [1, 2, 3, 4]))
    copied = read(cache.take("b", [1, 2, 9, 9]), [7, 7])
    assert held(copied, 0) == [1, 2, 7, 7]
    assert held(cache.take("a", [1, 2, 3, 4, 5]), 0) == [1, 2, 3, 4]


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(2 * BYTES)
    for name in "abc":
        cache.keep(name, read(KV(), [ord(name)]))
    assert cache.nbytes == 2 * BYTES
    assert cache.take("a", [ord("a"), 0]).length == 0
    kept = cache.take("b", [ord("b"), 0])
    assert kept.length == 1
    cache.keep("b", kept)
    cache.keep("d", read(KV(), [100]))
    assert cache.take("c", [ord("c"), 0]).length == 0, "b was used after c"
    assert cache.take("b", [ord("b"), 0]).length == 1


def test_room_is_made_for_a_long_one() -> None:
    cache = PrefixCache(3 * BYTES)
    for name in "abc":
        cache.keep(name, read(KV(), [ord(name)]))
    cache.keep("long", read(KV(), [7] * 700))
    assert cache.nbytes == 3 * BYTES
    assert [cache.take(name, [ord(name), 0]).length for name in "abc"] == [0, 0, 0]


def test_what_is_kept_again_counts_as_used() -> None:
    cache = PrefixCache(2 * BYTES)
    for name in "aba":
        cache.keep(name, read(KV(), [ord(name)]))
    cache.keep("c", read(KV(), [ord("c")]))
    assert cache.take("b", [ord("b"), 0]).length == 0
    assert cache.take("a", [ord("a"), 0]).length == 1


def test_a_text_that_outgrows_its_memory_keeps_what_it_had() -> None:
    kv, tokens = KV(), [i % 50 for i in range(900)]
    for start, end in ((0, 250), (250, 260), (260, 600), (600, 900)):
        read(kv, tokens[start:end])
    assert all(held(kv, layer) == tokens for layer in range(LAYERS))


def test_a_budget_of_nothing_keeps_nothing() -> None:
    cache = PrefixCache(0)
    cache.keep("a", read(KV(), [1, 2]))
    assert cache.nbytes == 0
    assert cache.take("a", [1, 2, 3]).length == 0


def test_what_was_appended_but_not_committed_does_not_count() -> None:
    kv = read(KV(), [1, 2])
    kv.append(0, torch.ones(1, 3, 4), torch.ones(1, 3, 4))
    assert held(kv, 0) == [1, 2]
    assert held(read(kv, [5]), 0) == [1, 2, 5]


def test_clear_drops_everything() -> None:
    cache = PrefixCache(1 << 30)
    cache.keep("a", read(KV(), [1]))
    cache.clear()
    assert cache.nbytes == 0
