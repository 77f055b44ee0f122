"""How many windows a reindexer has in flight: few at first, then as many as keep the workers busy."""

from unittest.mock import Mock

import pytest

from embedmill.reindexing.bulk_queue import HORIZON_S, MAX_WINDOWS, MIN_WINDOWS, Backlog
from embedmill.reindexing.pipeline import Pipeline

EMPTY = Backlog(tokens=0, tokens_per_s=1_000.0)
LONG = Backlog(tokens=int(1_000 * HORIZON_S), tokens_per_s=1_000.0)


def most(backlog, n_closed):
    """Return the number of windows that are submitted before one is collected."""
    n_open = 0
    while backlog.wants_more(n_open, n_closed):
        n_open += 1
    return n_open


@pytest.mark.parametrize("n_closed", [0, 1, 5, 1_000])
def test_an_empty_lane_takes_one_window_more_after_each_that_is_done(n_closed):
    assert most(EMPTY, n_closed) == min(MIN_WINDOWS + n_closed, MAX_WINDOWS)


@pytest.mark.parametrize("backlog", [LONG, Backlog(tokens=1, tokens_per_s=0.0)])
def test_a_long_backlog_or_a_lane_that_does_not_drain_takes_the_fewest(backlog):
    assert most(backlog, 1_000) == MIN_WINDOWS


def test_a_run_lets_one_window_more_go_after_each_that_it_has_closed():
    queue, ledger = Mock(backlog=lambda: EMPTY), Mock(jobs=list)
    pipeline = Pipeline(queue, ledger, Mock(), Mock(), sink="sink", dimensions=None)
    counts = []
    for _ in range(4):
        while pipeline.wants_more():
            assert pipeline.submit(Mock(carried=0, pending=[]))
        counts.append(len(pipeline))
        pipeline.close()
    assert counts == [2, 3, 4, 5]
    assert queue.delete.call_count == 4
