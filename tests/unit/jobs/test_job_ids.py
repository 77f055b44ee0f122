"""Ids of jobs that a request's name is part of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.jobs.coalescing import Batch, Call
from embedmill.jobs.request import MAX_LABEL_CHARS, is_job_id, new_job_id


@given(st.text())
def test_whatever_the_label_the_id_is_one(label):
    made = new_job_id(label)
    assert is_job_id(made)
    assert made != new_job_id(label)


@pytest.mark.parametrize(
    ("label", "shown"),
    [("req_1-a.b", "req_1-a.b"), ("a:b", "a-b"), ("--.a", "a"), ("a b\n", "a-b-"), ("a" * 128, "a" * MAX_LABEL_CHARS)],
)
def test_the_label_is_what_the_id_begins_with(label, shown):
    assert new_job_id(label)[:-9] == shown


@pytest.mark.parametrize("label", ["", "::", "日本"])
def test_without_a_label_the_id_is_random_alone(label):
    assert len(new_job_id(label)) == 32


def test_a_batch_has_the_label_of_its_oldest_call():
    calls = tuple(Call(texts=["a"], tokens=1, label=label) for label in ("first", "second"))
    assert Batch(calls=calls).label == "first"
