"""Work that is late or not wanted any more costs no forward pass; a running job stops within one chunk."""

import time

import pytest

from embedmill import EmbeddingClient, JobCancelledError, ResultTimeoutError
from embedmill.protocol.keys import Keyspace
from embedmill.reply import Reason
from embedmill_worker.cli.measure import corpus
from support.servers import plain_redis
from support.waiting import wait_until

MODEL = "all-MiniLM-L6-v2"


@pytest.fixture
def client(own_mill):
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as made:
        yield made


def chunks_with_inference(parts):
    return sum("inference" in part.timings_ms for part in parts)


def test_work_whose_deadline_passed_is_dropped_before_a_forward_pass(own_mill, client):
    texts = corpus.mixed(200)
    late = client.submit(texts, deadline_s=0.2)
    time.sleep(0.3)
    own_mill.start_worker()
    reply = late.result(60)
    assert {r.reason for r in reply.rejected} == {Reason.DEADLINE}
    assert len(reply.rejected) == len(texts)
    assert reply.timings_ms.get("inference", 0) == 0


def test_a_deadline_that_passes_under_a_job_stops_it_and_keeps_what_is_done(own_mill, client):
    own_mill.start_worker()
    texts = corpus.mixed(2000)
    job = client.submit(texts, deadline_s=3_600)
    with plain_redis(own_mill.redis_url) as server:
        wait_until(lambda: job.status().chunks_done)
        server.hset(Keyspace(own_mill.namespace).job(job.id), "deadline_ms", 1)  # now it has passed
    reply = job.result(120)
    late = {r.index for r in reply.rejected}
    assert {r.reason for r in reply.rejected} == {Reason.DEADLINE}
    assert 0 < len(late) < len(texts)


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_a_running_job_stops_within_one_chunk(own_mill, client, how):
    own_mill.start_worker()
    job = client.submit(corpus.mixed(2000))
    keys = Keyspace(own_mill.namespace)
    with plain_redis(own_mill.redis_url) as server:
        wait_until(lambda: job.status().chunks_done)
        commands = heard_while(server, lambda: (getattr(job, how)(), client.submit(["after it"]).wait(120)))
        texts = keys.texts(job.id)
        stopped = next(i for i, said in enumerate(commands) if said.startswith("UNLINK") and texts in said.split())
        # Its doorbells were before the other job's in the queue: they are answered by now, and begin nothing of it.
        later = commands[stopped:]
        assert not [said for said in later if said.startswith(f"HSET {keys.held} ") and f" {job.id} " in said]
        assert not server.exists(texts)
        assert server.hget(keys.lane(MODEL, "bulk"), "chunks") == b"0"
    if how == "cancel":
        with pytest.raises(JobCancelledError):
            job.result(1)


def heard_while(server, act) -> list[str]:
    """What Redis is told meanwhile, by scripts too."""
    with server.monitor() as monitor:
        act()
        server.echo("that was all")
        said = []
        while not said or said[-1] != "ECHO that was all":
            said.append(monitor.next_command()["command"])
    return said


def test_an_embed_that_times_out_leaves_no_work_behind(own_mill, client):
    with pytest.raises(ResultTimeoutError, match="It was cancelled"):
        client.embed(corpus.mixed(2000), timeout_s=0.5)
    with plain_redis(own_mill.redis_url) as server:
        assert list(server.scan_iter(Keyspace(own_mill.namespace).job("*"))) == []
        keys = Keyspace(own_mill.namespace)
        assert server.hget(keys.lane(MODEL, "interactive"), "chunks") == b"0"
