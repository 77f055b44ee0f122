"""A lane that nobody serves and that holds nothing is forgotten; no job is ever lost over it."""

import pytest

from embedmill import EmbeddingClient
from embedmill.protocol.keys import LANES
from embedmill.protocol.records import JobState
from embedmill.status import read_status
from embedmill_worker.jobs import reconciler
from embedmill_worker.jobs.reconciler import Reconciler

TEXTS = [f"{n:04d} " * 16 for n in range(5)]


@pytest.fixture
def sweep(bench, monkeypatch):
    """Sweeps once, as the worker of another model."""
    monkeypatch.setattr(reconciler, "REST", 0.0)
    bench.announce(bench.card(model="another"))
    bench.live(models=("another",))
    sweeper = Reconciler(bench.keys, "w")
    return lambda: bench.run(sweeper.sweep())


def left(bench):
    """What Redis holds of the lanes of the model that nobody serves."""
    keys = bench.keys
    names = (keys.lane, keys.queue, keys.turns, keys.tenants, keys.flights)
    of_lane = [name("paper", lane) for lane in LANES for name in names]
    members = bench.redis.smembers(keys.lanes) & {f"paper {lane}".encode() for lane in LANES}
    return [name for name in of_lane if bench.redis.exists(name)], members


def shown(bench):
    """The lanes of that model in a status."""
    return [lane.lane for lane in read_status(bench.settings).lanes if lane.model == "paper"]


@pytest.mark.parametrize("end", ["cancel", "delete"])
def test_the_lane_of_a_model_that_was_named_wrongly_leaves_with_its_last_job(bench, sweep, end):
    bench.submit(TEXTS, job_id="one")
    bench.submit(TEXTS, job_id="two")
    sweep()
    assert shown(bench) == ["bulk"]
    with EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
        assert getattr(client.job("one"), end)()
        sweep()
        assert shown(bench) == ["bulk"]
        assert getattr(client.job("two"), end)()
    assert shown(bench) == []
    sweep()
    assert left(bench) == ([], set())


def test_the_lane_of_a_job_that_expired_leaves(bench, sweep):
    bench.submit(TEXTS)
    bench.redis.delete(bench.keys.job("job"), bench.keys.texts("job"))
    sweep()
    assert (left(bench), shown(bench)) == (([], set()), [])


def test_a_lane_that_is_served_or_holds_a_job_stays(bench, sweep):
    bench.submit(TEXTS)
    sweep()
    assert left(bench)[1] == {b"paper bulk"}
    with EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
        client.job("job").cancel()
    bench.live(models=("another", "paper"))
    sweep()
    assert left(bench)[1] == {b"paper bulk"}
    assert shown(bench) == ["bulk", "interactive"]


def test_a_job_that_is_submitted_once_its_lane_is_forgotten_begins_it_anew(bench, sweep):
    for n in range(3):
        bench.submit(TEXTS, job_id=f"job{n}")
        with EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
            client.job(f"job{n}").cancel()
        sweep()
        assert left(bench) == ([], set())
    bench.submit(TEXTS, job_id="last")
    sweep()
    assert shown(bench) == ["bulk"]
    while bench.work():
        pass
    assert bench.status("last").state is JobState.DONE
