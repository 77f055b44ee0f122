"""Batches lose nothing, stay within the budget and cost least."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill_worker.engine.transformer.batching import RUN_COST_TOKENS, pad, plan, width

lengths = st.lists(st.integers(1, 300), max_size=60)
budgets = st.integers(1, 600)


steps = st.sampled_from([1, 4, 16])


def cost(batches: list[list[int]], token_counts: list[int], step: int) -> int:
    return sum(
        width(max(token_counts[i] for i in batch), len(batch), step) * len(batch) + RUN_COST_TOKENS for batch in batches
    )


@given(lengths, budgets)
def test_every_text_is_in_one_batch(token_counts: list[int], budget: int) -> None:
    positions = [i for batch in plan(token_counts, max_batch_tokens=budget) for i in batch]

    assert sorted(positions) == list(range(len(token_counts)))


@given(lengths, budgets)
def test_a_batch_stays_within_the_budget_unless_one_text_alone_exceeds_it(token_counts: list[int], budget: int) -> None:
    for batch in plan(token_counts, max_batch_tokens=budget):
        assert len(batch) == 1 or max(token_counts[i] for i in batch) * len(batch) <= budget


@given(lengths, budgets)
def test_no_text_is_longer_than_one_of_a_later_batch(token_counts: list[int], budget: int) -> None:
    batches = plan(token_counts, max_batch_tokens=budget)

    for batch, later in itertools.pairwise(batches):
        assert max(token_counts[i] for i in batch) <= min(token_counts[i] for i in later)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(40, 120), steps)
def test_no_other_cut_of_the_sorted_texts_costs_less(token_counts: list[int], budget: int, step: int) -> None:
    order = sorted(range(len(token_counts)), key=token_counts.__getitem__)
    cuts = [
        [order[a:b] for a, b in itertools.pairwise((0, *places, len(order)))]
        for count in range(len(order))
        for places in itertools.combinations(range(1, len(order)), count)
    ]
    allowed = [cut for cut in cuts if all(token_counts[b[-1]] * len(b) <= budget or len(b) == 1 for b in cut)]

    planned = cost(plan(token_counts, max_batch_tokens=budget, token_step=step), token_counts, step)

    assert planned == min(cost(cut, token_counts, step) for cut in allowed)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), steps, st.integers(1, 320))
def test_a_run_has_a_multiple_of_the_step_unless_the_model_reads_no_more(
    lengths: list[int], step: int, max_tokens: int
) -> None:
    padded, _ = pad([[7] * length for length in lengths], token_step=step, max_tokens=max_tokens)

    assert max(lengths) <= padded.shape[1] < max(lengths) + step
    assert padded.size % step == 0 or padded.shape[1] == max(max(lengths), max_tokens)


def test_texts_of_equal_length_fill_batches_in_input_order() -> None:
    assert plan([10] * 5, max_batch_tokens=30) in ([[0, 1, 2], [3, 4]], [[0, 1], [2, 3, 4]])


def test_a_long_text_does_not_pad_short_ones() -> None:
    assert plan([200, 4, 4, 4], max_batch_tokens=1000) == [[1, 2, 3], [0]]


@given(st.lists(st.lists(st.integers(1, 30_000), max_size=20), max_size=8))
def test_padding_is_zeros_on_the_right(ids: list[list[int]]) -> None:
    padded, row_lengths = pad(ids)

    assert padded.dtype == row_lengths.dtype == np.int64
    assert padded.shape == (len(ids), max(map(len, ids), default=0))
    for row, length, expected in zip(padded, row_lengths, ids, strict=True):
        assert row[:length].tolist() == expected
        assert not row[length:].any()


@pytest.mark.parametrize("budget", [1, 384])
def test_nothing_makes_no_batches(budget: int) -> None:
    assert plan([], max_batch_tokens=budget) == []
