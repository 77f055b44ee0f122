"""A reader of a whole job asks Redis seldom, and sees the job's end when it comes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.jobs import operations
from embedmill.jobs.operations import LONGEST_PAUSE_S, Progress


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch):
        self.now_s = 0.0
        monkeypatch.setattr(operations.time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Clock(monkeypatch)


def whole(n_chunks, children=1, timeout_s=1e9):
    """Begin to read a whole job."""
    progress = Progress("job", timeout_s, n_chunks=n_chunks)
    progress.expect(n_chunks, children=children)
    return progress


def read(clock, ends_s, children=1):
    """Read a job whose chunks are done at these moments; give the number of reads and the moment of the last."""
    progress, reads = whole(len(ends_s), children), 0
    while len(progress.seen) < len(ends_s):
        clock.now_s += progress.pause_s()
        clock.now_s = max(clock.now_s, ends_s[len(progress.seen)])  # a read waits for the next event
        progress.seen.update(chunk for chunk, end_s in enumerate(ends_s) if end_s <= clock.now_s)
        reads += 1
    return reads, clock.now_s


@pytest.mark.parametrize("waited_s", [0.0, 100.0])
@pytest.mark.parametrize("children", [1, 2, 16])
@pytest.mark.parametrize("n_chunks", [1, 2, 3, 16, 500])
def test_a_whole_job_is_read_in_few_steps_and_its_end_is_seen_at_once(clock, children, n_chunks, waited_s):
    ends_s = [waited_s + (chunk // children + 1) * 0.01 for chunk in range(n_chunks)]
    reads, end_s = read(clock, ends_s, children)
    assert end_s == ends_s[-1]
    assert reads <= 4 + 2 * math.ceil(math.log2(n_chunks))


@given(st.lists(st.floats(min_value=0.5, max_value=1.0), min_size=1, max_size=100))
def test_the_end_is_seen_at_once_also_if_the_pace_doubles(takes_s):
    with pytest.MonkeyPatch.context() as monkeypatch:
        ends_s = [sum(takes_s[: n + 1]) for n in range(len(takes_s))]
        _, end_s = read(Clock(monkeypatch), ends_s)
        assert end_s == ends_s[-1]


def test_a_reader_that_wants_each_chunk_or_knows_no_pace_does_not_pause(clock):
    for progress in (Progress("job", n_chunks=9), whole(9, children=7)):
        clock.now_s += 5.0
        assert progress.pause_s() == 0
        progress.seen.update([0, 1])
        assert progress.pause_s() == 0


def test_a_pause_is_short_beside_what_is_left_of_the_timeout(clock):
    progress = whole(1_000, timeout_s=100.0)
    progress.seen.add(0)
    assert progress.pause_s() == 0
    clock.now_s = 60.0
    assert progress.pause_s() == LONGEST_PAUSE_S
    clock.now_s = 99.5
    assert progress.pause_s() == pytest.approx(0.25)
    clock.now_s = 101.0
    assert progress.pause_s() == 0
