"""Which chunks are lost: a decision, not a side effect."""

import pytest

from embedmill_worker.jobs.claims import ChunkRef
from embedmill_worker.jobs.reconciler import Lost, OpenChunk, find_lost

REF = ChunkRef(job_id="j", chunk=3, model="m", lane="bulk", token="")
WORKING = {"w1": frozenset({"j:3:1", "other:0:9"})}
IDLE = {"w1": frozenset()}
NOT_SEEN, SEEN = set(), {("j", 3)}


def suspected(claim):
    return {("j", 3, claim)}


@pytest.mark.parametrize(
    ("claim", "queued", "active", "suspects", "how"),
    [
        # In its queue: it waits its turn, whatever else is said of it.
        ("", SEEN, {}, suspected(""), None),
        ("w1 j:3:1 77", SEEN, {}, suspected("w1 j:3:1 77"), None),
        # Popped and not claimed: it may be on its way to a child, once.
        ("", NOT_SEEN, WORKING, set(), "suspect"),
        ("", NOT_SEEN, WORKING, suspected(""), "reclaim"),
        # Claimed, and its worker says that it works on it.
        ("w1 j:3:1 77", NOT_SEEN, WORKING, set(), None),
        ("w1 j:3:1 77", NOT_SEEN, WORKING, suspected("w1 j:3:1 77"), None),
        # Claimed by a worker that lives and does not work on it: it may have begun after its last beat, once.
        ("w1 j:3:1 77", NOT_SEEN, IDLE, set(), "suspect"),
        ("w1 j:3:1 77", NOT_SEEN, IDLE, suspected("w1 j:3:1 77"), "abandon"),
        ("w1 j:3:2 77", NOT_SEEN, WORKING, suspected("w1 j:3:2 77"), "abandon"),
        # The suspicion was of another claim.
        ("w1 j:3:2 77", NOT_SEEN, IDLE, suspected("w1 j:3:1 77"), "suspect"),
        ("w1 j:3:1 77", NOT_SEEN, IDLE, suspected(""), "suspect"),
        # Its worker is dead: no second look is needed.
        ("w0 j:3:1 77", NOT_SEEN, WORKING, set(), "reclaim"),
        ("w0 j:3:1 77", NOT_SEEN, {}, set(), "reclaim"),
        # As workers before pids wrote it.
        ("w1 j:3:1", NOT_SEEN, WORKING, set(), None),
        ("w0 j:3:1", NOT_SEEN, WORKING, set(), "reclaim"),
    ],
)
def test_a_chunk_is_lost_when_nothing_can_finish_it(claim, queued, active, suspects, how):
    lost, next_suspects = find_lost([OpenChunk(REF, claim)], queued, active, suspects)
    assert lost == ([Lost(REF, claim, how)] if how in ("reclaim", "abandon") else [])
    assert next_suspects == (suspected(claim) if how == "suspect" else set())


def test_each_chunk_is_checked_by_itself():
    others = [OpenChunk(ChunkRef(job_id="j", chunk=n, model="m", lane="bulk", token=""), "") for n in (4, 5)]
    lost, suspects = find_lost([OpenChunk(REF, ""), *others], {("j", 4)}, {}, suspected(""))
    assert lost == [Lost(REF, "", "reclaim")]
    assert suspects == {("j", 5, "")}
