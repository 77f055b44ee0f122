"""Work that is late or not wanted any more costs no forward pass; a running job stops within one chunk."""

import time

import pytest
import redis

from embedmill import EmbeddingClient, JobCancelledError, ResultTimeoutError
from embedmill.keys import Keyspace
from embedmill.reply import Reason
from embedmill_worker import corpus

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
    client.embed(["to have the model's card"])
    texts = corpus.mixed(2000)
    reply = client.submit(texts, deadline_s=1.5).result(120)
    late = {r.index for r in reply.rejected}
    assert {r.reason for r in reply.rejected} == {Reason.DEADLINE}
    assert 0 < len(late) < len(texts)


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_a_running_job_stops_within_one_chunk(own_mill, client, how):
    worker = own_mill.start_worker()
    job = client.submit(corpus.mixed(2000))
    keys = Keyspace(own_mill.namespace)
    with redis.Redis.from_url(own_mill.redis_url) as server:
        while not job.status().chunks_done:
            time.sleep(0.01)
        assert getattr(job, how)()
        before = cpu_s(worker)
        time.sleep(1.0)  # far longer than a chunk
        settled = cpu_s(worker)
        time.sleep(1.0)
        assert not server.exists(keys.claims(job.id), keys.texts(job.id), keys.replies(job.id))
        assert server.hget(keys.lane(MODEL, "bulk"), "chunks") == b"0"
    # What was under work when it was cancelled is a quarter of a second a child; the rest would be ten seconds.
    assert cpu_s(worker) - settled < 0.5, (before, settled)
    if how == "cancel":
        with pytest.raises(JobCancelledError):
            job.result(1)


def cpu_s(worker) -> float:
    import psutil

    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in worker.children)


def test_an_embed_that_times_out_leaves_no_work_behind(own_mill, client):
    with pytest.raises(ResultTimeoutError, match="It was cancelled"):
        client.embed(corpus.mixed(2000), timeout_s=0.5)
    with redis.Redis.from_url(own_mill.redis_url) as server:
        assert list(server.scan_iter(f"{own_mill.namespace}:job:*")) == []
        keys = Keyspace(own_mill.namespace)
        assert server.hget(keys.lane(MODEL, "interactive"), "chunks") == b"0"
