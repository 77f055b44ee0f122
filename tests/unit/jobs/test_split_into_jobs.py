"""A long input is cut into jobs by count and by size."""

from hypothesis import given
from hypothesis import strategies as st

from embedmill.jobs.chunking import split_into_jobs


@given(st.lists(st.text(max_size=9), max_size=40), st.integers(1, 7), st.integers(1, 30))
def test_every_text_is_in_one_window_and_none_is_larger_than_it_may_be(texts, max_texts, max_chars):
    cuts = split_into_jobs(texts, max_texts=max_texts, max_chars=max_chars)
    assert [i for start, stop in cuts for i in range(start, stop)] == list(range(len(texts)))
    for start, stop in cuts:
        assert stop - start <= max_texts
        assert stop - start == 1 or sum(map(len, texts[start:stop])) <= max_chars


def test_no_text_is_one_empty_window():
    assert split_into_jobs([]) == [(0, 0)]
