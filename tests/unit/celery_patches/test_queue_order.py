"""Interactive first, bulk one turn in ten, models in rotation."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.scheduling import cycle_by_name

from embedmill_worker.celery_patches.queue_order import BULK_TURN, LaneOrder

QUEUES = ["ns.a.interactive", "ns.b.interactive", "ns.a.bulk", "ns.b.bulk", "ns.embed"]


def serve(order, waiting, turns):
    """Returns the queues served when Redis pops from the first one that has a message."""
    served = []
    for _ in range(turns):
        looked_at = order.consume(len(waiting))
        queue = next((q for q in looked_at if waiting[q]), None)
        if queue is None:
            break
        waiting[queue] -= 1
        order.rotate(queue)
        served.append(queue)
    return served


def test_interactive_is_looked_at_first():
    order = LaneOrder(QUEUES)
    assert [q.endswith(".bulk") for q in order.consume(5)] == [False, False, False, True, True]


def test_bulk_gets_one_turn_in_ten_while_interactive_never_ends():
    served = serve(LaneOrder(QUEUES), dict.fromkeys(QUEUES, 1000), 200)
    assert sum(q.endswith(".bulk") for q in served) == 200 // BULK_TURN


def test_models_and_the_task_queue_share_alike():
    counts = Counter(serve(LaneOrder(QUEUES), dict.fromkeys(QUEUES, 1000), 600))
    assert counts == {**{q: 180 for q in QUEUES if not q.endswith(".bulk")}, "ns.a.bulk": 30, "ns.b.bulk": 30}


def test_one_model_s_flood_does_not_delay_another_s_text():
    order = LaneOrder(QUEUES)
    serve(order, {**dict.fromkeys(QUEUES, 0), "ns.a.interactive": 100}, 50)
    later = serve(order, {**dict.fromkeys(QUEUES, 0), "ns.a.interactive": 50, "ns.b.interactive": 1}, 2)
    assert "ns.b.interactive" in later


@given(st.lists(st.tuples(st.sampled_from(QUEUES), st.integers(1, 30)), max_size=30), st.integers(1, 400))
def test_nothing_that_waits_is_passed_over_for_nothing(arrivals, turns):
    order, waiting = LaneOrder(QUEUES), dict.fromkeys(QUEUES, 0)
    for queue, count in arrivals:
        waiting[queue] += count
    total = sum(waiting.values())
    bulk_waiting = sum(count for queue, count in waiting.items() if queue.endswith(".bulk"))
    served = serve(order, waiting, turns)
    assert len(served) == min(turns, total)
    runs = "".join("b" if q.endswith(".bulk") else "i" for q in served)
    while_bulk_waits = runs[: runs.rindex("b") + 1] if bulk_waiting == runs.count("b") and bulk_waiting else runs
    if bulk_waiting:
        assert "i" * BULK_TURN not in while_bulk_waits


@given(st.lists(st.sampled_from([*QUEUES, "ns.gone.bulk"]), max_size=50))
def test_every_queue_is_always_looked_at_once(used):
    order = LaneOrder(QUEUES)
    for queue in used:
        assert order.rotate(queue) == queue
        assert sorted(order.consume(len(QUEUES))) == sorted(QUEUES)


def test_queues_may_come_and_go():
    order = LaneOrder()
    assert order.consume(3) == []
    order.update(QUEUES[:2])
    assert sorted(order.consume(2)) == sorted(QUEUES[:2])
    order.rotate("ns.a.bulk")
    assert sorted(order.consume(9)) == sorted(QUEUES[:2])


@pytest.mark.parametrize("method", ["update", "consume", "rotate"])
def test_kombu_finds_it_by_name(method):
    assert callable(getattr(cycle_by_name("embedmill_worker.celery_patches.queue_order:LaneOrder")(), method))
