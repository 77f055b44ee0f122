"""What workers read from tokens and from the record's crash counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.jobs.request import check_job_id
from embedmill_worker.jobs.claims import crash_counts, parse_token

job_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)


@given(job_ids, st.integers(0, 65_535), st.integers(1, 10**6))
def test_a_doorbell_s_id_names_its_job_and_chunk(job_id, chunk, ring):
    assert parse_token(f"{check_job_id(job_id)}:{chunk}:{ring}") == (job_id, chunk)


@pytest.mark.parametrize(
    "token", ["", "6a1f8e0c-7d0a-4f4e-9f2e", "j:1", "j:x:1", "j:1:x", "j:-1:1", "j:1:1:1", "j:٣:1", "j::1", "j:1.0:1"]
)
def test_any_other_task_s_id_names_none(token):
    assert parse_token(token) is None


@given(st.text())
def test_no_id_however_odd_is_an_error(token):
    parse_token(token)


def test_crashes_and_losses_are_picked_by_chunk_and_by_text():
    counts = {b"3": 2, b"3:lost": 5, b"3:7": 1, b"3:0": 3, b"3:7:lost": 4, b"33": 9, b"33:7": 9, b"4:lost": 1}
    flat = [part for name, count in counts.items() for part in (name, str(count).encode())]
    assert crash_counts(3, flat) == {"crashes": 2, "losses": 5, "crashes_alone": {7: 1, 0: 3}, "losses_alone": {7: 4}}
    assert crash_counts(4, flat) == {"losses": 1, "crashes_alone": {}, "losses_alone": {}}
    assert crash_counts(3, []) == {"crashes_alone": {}, "losses_alone": {}}
