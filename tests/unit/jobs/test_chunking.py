"""Cutting a job into chunks: nothing lost, nothing over its budget, costliest first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.jobs import chunking
from embedmill.limits import CHUNK_TARGET_S, LONGEST_CHUNK_S, MAX_CHUNK_BYTES, MAX_CHUNK_TEXTS, MAX_TEXT_CHARS
from embedmill.protocol.cards import UNKNOWN_CARD, ModelCard
from embedmill.protocol.chunks import Chunk, pack_chunk, unpack_chunk

costs_lists = st.lists(st.floats(0.1, 5_000), max_size=400)
budgets = st.floats(16, 10_000)
children_counts = st.integers(0, 64)


def card(**changes) -> ModelCard:
    fields = {"max_tokens": 256, "chars_per_token": 4.0, "tokens_per_s": 4_000.0}
    return ModelCard(name="m", fingerprint="f", dimension=8, **{**fields, **changes})


@given(costs_lists, budgets, children_counts)
def test_every_position_is_in_exactly_one_chunk(costs, budget, children):
    chunks = chunking.cut(np.array(costs), budget=budget, smallest=budget / 8, children=children)
    assert all(len(part) for part in chunks)
    assert sorted(int(i) for part in chunks for i in part) == list(range(len(costs)))


@given(costs_lists, budgets, children_counts)
def test_only_a_text_alone_may_exceed_the_budget(costs, budget, children):
    values = np.array(costs)
    for part in chunking.cut(values, budget=budget, smallest=budget / 8, children=children):
        assert len(part) == 1 or values[part].sum() <= budget * (1 + 1e-9)


@given(costs_lists, budgets, children_counts)
def test_the_costliest_texts_come_first(costs, budget, children):
    values = np.array(costs)
    order = [
        values[i] for part in chunking.cut(values, budget=budget, smallest=budget / 8, children=children) for i in part
    ]
    assert order == sorted(costs, reverse=True)


@given(costs_lists, budgets, children_counts)
def test_the_same_costs_are_cut_the_same_way(costs, budget, children):
    first, second = (
        chunking.cut(np.array(costs), budget=budget, smallest=budget / 8, children=children) for _ in range(2)
    )
    assert [part.tolist() for part in first] == [part.tolist() for part in second]


def test_many_cheap_texts_are_bounded_by_their_number():
    chunks = chunking.cut(np.full(10_000, 0.001), budget=1_000.0, smallest=125.0, children=1)
    assert max(len(part) for part in chunks) == MAX_CHUNK_TEXTS


def test_chunks_get_smaller_towards_the_end_so_that_no_child_idles():
    sizes = [len(part) for part in chunking.cut(np.full(1_000, 10.0), budget=1_000.0, smallest=125.0, children=4)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 100
    assert sizes[-2] <= 13  # an eighth of the budget; the very last may hold what is left


def test_a_chunk_never_pays_less_than_an_eighth_of_the_budget_but_for_the_last():
    costs = np.full(5_000, 1.0)
    chunks = chunking.cut(costs, budget=800.0, smallest=100.0, children=64)
    assert all(costs[part].sum() >= 99 for part in chunks[:-1])


def test_other_work_that_waits_keeps_chunks_large_to_the_end():
    costs = np.full(1_000, 10.0)
    sizes = [len(part) for part in chunking.cut(costs, budget=1_000.0, smallest=125.0, children=4, waiting=8_000.0)]
    assert sizes == [100] * 10


@given(st.integers(0, 5_000))
def test_bulk_chunks_grow_with_the_fleet_up_to_a_limit(children):
    smaller, larger = (chunking.bulk_chunk_s(n) for n in (children, children + 1))
    assert CHUNK_TARGET_S <= smaller <= larger <= LONGEST_CHUNK_S


@pytest.mark.parametrize(
    ("children", "seconds"), [(0, 0.25), (1, 0.25), (2, 0.25), (4, 0.329), (16, 0.900), (64, 3.241), (100, 4.0)]
)
def test_a_bulk_chunk_is_as_long_as_the_wait_for_a_free_child_allows(children, seconds):
    assert chunking.bulk_chunk_s(children) == pytest.approx(seconds, abs=0.001)


def test_with_such_chunks_an_interactive_text_waits_no_longer_in_a_large_fleet():
    rng = np.random.default_rng(7)

    def wait_s(children):
        ends = rng.uniform(0, chunking.bulk_chunk_s(children), size=(20_000, children))
        return np.quantile(ends.min(axis=1), 0.99)

    alone = wait_s(2)
    assert all(wait_s(children) < alone * 1.1 for children in (4, 16, 64))


def test_no_text_costs_more_than_the_model_reads_but_for_its_tokenization():
    costs = chunking.estimate_costs([0, 400, 4_000, 1_000_000], card())
    assert costs.tolist() == [2.0, 102.0 + 1.0, 256.0 + 10.0, 256.0 + 2_500.0]


@pytest.mark.parametrize(("tokens_per_s", "budget"), [(4_000.0, 1_000.0), (1.0, 16.0), (1e6, 250_000.0)])
def test_the_budget_is_the_target_s_worth_of_tokens_within_bounds(tokens_per_s, budget):
    assert CHUNK_TARGET_S == 0.25
    assert chunking.chunk_budget(card(tokens_per_s=tokens_per_s)) == budget


def test_chunks_of_a_fast_model_are_bounded_by_what_a_core_tokenizes_in_the_target_s_time():
    fast = card(tokens_per_s=1e6, max_tokens=8_192)
    costs = chunking.estimate_costs([20_000] * 100, fast)
    largest = max(
        len(part) for part in chunking.cut(costs, budget=chunking.chunk_budget(fast), smallest=0.0, children=1)
    )
    assert largest * 20_000 <= CHUNK_TARGET_S * chunking.TOKENIZED_CHARS_PER_S
    short = chunking.estimate_costs([50] * 65_536, fast)
    assert (
        max(map(len, chunking.cut(short, budget=chunking.chunk_budget(fast), smallest=0.0, children=2)))
        == MAX_CHUNK_TEXTS
    )


@pytest.mark.parametrize(
    "announced",
    [card(tokens_per_s=1e9), card(tokens_per_s=1e6, chars_per_token=1e6), card(tokens_per_s=0.1), UNKNOWN_CARD],
    ids=["boasting", "fast", "slow", "unknown"],
)
def test_the_longest_texts_still_make_chunks_that_a_worker_reads(announced):
    chars = [MAX_TEXT_CHARS] * 12
    costs = chunking.estimate_costs(chars, announced)
    parts = chunking.cut(costs, budget=chunking.chunk_budget(announced), smallest=0.0, children=1)
    text = "\U0001f9c2" * MAX_TEXT_CHARS
    largest = max(len(part) for part in parts)
    chunk = Chunk(indices=np.arange(largest, dtype=np.uint32), texts=(text,) * largest)
    assert len(text.encode()) * largest < MAX_CHUNK_BYTES
    assert unpack_chunk(pack_chunk(chunk)).texts == chunk.texts
