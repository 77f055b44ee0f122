"""Which chunks are lost: a decision, not a side effect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill_worker.jobs.claims import ChunkRef, Held
from embedmill_worker.jobs.reconciler import find_lost

WORKING = {"w1": frozenset({"3-1", "9-9"})}
IDLE = {"w1": frozenset()}


def held(token="3-1", worker="w1"):
    ref = ChunkRef(job_id="j", born="1", chunk=3, tenant="", model="m", lane="bulk", token=token)
    return Held(ref=ref, worker=worker, n_tokens=1)


@pytest.mark.parametrize(
    ("one", "active", "suspects", "how"),
    [
        # Its worker says that it works on it.
        (held(), WORKING, set(), None),
        (held(), WORKING, {"3-1"}, None),
        # Its worker lives and does not work on it: it may have begun after its last beat, once.
        (held(), IDLE, set(), "suspect"),
        (held(), IDLE, {"3-1"}, "lost"),
        (held("3-2"), WORKING, {"3-2"}, "lost"),
        # The suspicion was of another claim.
        (held("3-2"), IDLE, {"3-1"}, "suspect"),
        # Its worker is dead: no second look is needed.
        (held(worker="w0"), WORKING, set(), "lost"),
        (held(worker="w0"), {}, set(), "lost"),
    ],
)
def test_a_chunk_is_lost_when_nobody_works_on_it(one, active, suspects, how):
    lost, next_suspects = find_lost([one], active, suspects)
    assert lost == ([one] if how == "lost" else [])
    assert next_suspects == ({one.ref.token} if how == "suspect" else set())


tokens = st.sampled_from(["1-1", "1-2", "1-3", "1-4"])
workers = st.sampled_from(["w1", "w2", "w3"])


@given(
    st.dictionaries(tokens, workers),
    st.dictionaries(workers, st.frozensets(tokens)),
    st.sets(tokens),
)
def test_nothing_under_work_is_taken_away_and_nothing_stays_held_for_ever(holders, active, suspects):
    all_held = [held(token, worker) for token, worker in holders.items()]
    lost, next_suspects = find_lost(all_held, active, suspects)
    for one in all_held:
        is_worked_on = one.ref.token in active.get(one.worker, frozenset())
        assert (one in lost) + (one.ref.token in next_suspects) + is_worked_on == 1
    again, rest = find_lost([one for one in all_held if one not in lost], active, next_suspects)
    assert rest == set()
    assert {one.ref.token for one in again} == next_suspects
