"""What workers read from tokens and from the record's crash counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill_worker.jobs.claims import ChunkRef, Held, crash_counts, is_token, read_held


def test_a_doorbell_s_id_is_a_token():
    assert is_token("1764000000000001-17")


@pytest.mark.parametrize(
    "token", ["", "6a1f8e0c-7d0a-4f4e-9f2e", "j:1:1", "1-", "-1", "1", "1-1-1", "1-1:at", "٣-1", "1-1\n"]
)
def test_any_other_task_s_id_is_none(token):
    assert not is_token(token)


@given(st.binary(), st.binary())
def test_nothing_that_somebody_puts_among_what_is_held_is_an_error(token, entry):
    read_held(token, entry)


@pytest.mark.parametrize("tenant", ["", "gold"])
def test_what_is_held_names_its_chunk(tenant):
    entry = f"j.1 7 64 900 1764000000000001 host.1.ab 77 o/model@1 bulk {tenant}".encode()
    held = read_held(b"5-1", entry)
    ref = ChunkRef(
        job_id="j.1", born="1764000000000001", chunk=7, tenant=tenant, model="o/model@1", lane="bulk", token="5-1"
    )
    assert held == Held(ref=ref, worker="host.1.ab", n_tokens=900)
    assert read_held(b"5-1:at", b"3") is None


def test_crashes_and_losses_are_picked_by_chunk_and_by_text():
    counts = {b"3": 2, b"3:lost": 5, b"3:7": 1, b"3:0": 3, b"3:7:lost": 4, b"33": 9, b"33:7": 9, b"4:lost": 1}
    flat = [part for name, count in counts.items() for part in (name, str(count).encode())]
    assert crash_counts(3, flat) == {"crashes": 2, "losses": 5, "crashes_alone": {7: 1, 0: 3}, "losses_alone": {7: 4}}
    assert crash_counts(4, flat) == {"losses": 1, "crashes_alone": {}, "losses_alone": {}}
    assert crash_counts(3, []) == {"crashes_alone": {}, "losses_alone": {}}
