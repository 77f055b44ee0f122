"""Values that somebody forged in Redis: readers give what is left, in bounds, and later writers go on."""

import dataclasses
import json

import pytest

from embedmill import EmbeddingClient, MessageError
from embedmill.limits import MAX_STATUS_WORKERS, MAX_WORKERS
from embedmill.protocol import dead_letter
from embedmill.protocol.chunks import pack_reply
from embedmill.protocol.codec import MAX_LABEL_CHARS
from embedmill.reply import Rejected
from embedmill.status import read_status
from embedmill_worker.jobs import claims

ESCAPE = "\x1b[2J\n"


def letter(text, *, index):
    known = {"job_id": "job", "chunk": 0, "model": "paper", "lane": "bulk", "reason": "crashed", "detail": "d"}
    return dead_letter.pack(dead_letter.of_text(text, keep=False, index=index, attempts=3, worker="w", **known))


@pytest.fixture
def client(bench):
    with EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
        yield client


def forge(bench, paper_reply, **changes):
    """Puts a changed reply in the place of a job's only one."""
    bench.announce(bench.card(4_000.0))
    bench.submit(["a text"], card=bench.card(4_000.0))
    claim = bench.take()
    reply = dataclasses.replace(paper_reply(claim), **changes)
    bench.run(claims.commit(bench.keys, claim.ref, pack_reply(reply)))


@pytest.mark.parametrize("how", ["result", "iter_results"])
def test_a_forged_detail_reaches_no_caller_as_it_is(bench, client, paper_reply, how):
    rejected = (Rejected(index=0, reason="failed", detail=ESCAPE * 1_000),)
    forge(bench, paper_reply, rejected=rejected)
    job = client.job("job")
    found = job.result(5.0).rejected if how == "result" else [r for p in job.iter_results() for r in p.rejected]
    assert [(r.index, r.reason) for r in found] == [(0, "failed")]
    assert found[0].detail.isprintable()
    assert len(found[0].detail) <= 512


@pytest.mark.parametrize("how", ["result", "iter_results"])
@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": ESCAPE},
        {"runtime": "x" * 10_000},
        {"rejected": (Rejected(index=0, reason=ESCAPE, detail="d"),)},
    ],
)
def test_forged_names_in_a_reply_are_refused(bench, client, paper_reply, how, changes):
    forge(bench, paper_reply, **changes)
    job = client.job("job")
    with pytest.raises(MessageError) as caught:
        job.result(5.0) if how == "result" else list(job.iter_results())
    assert str(caught.value).isprintable()


def test_a_fingerprint_that_somebody_put_into_a_record_is_a_name_to_the_worker(bench):
    bench.submit(["a text"])
    bench.redis.hset(bench.keys.job("job"), "fingerprint", (ESCAPE * 10_000).encode())
    claim = bench.claim(bench.pop())
    assert claim.pinned.isprintable()
    assert len(claim.pinned) <= MAX_LABEL_CHARS


def put_worker(bench, worker_id, at_ms, models):
    entry = {"worker_id": worker_id, "name": worker_id, "pid": 1, "host": "h", "state": "ready", "children": 1}
    bench.redis.set(bench.keys.worker(worker_id), json.dumps(entry | {"models": models}), ex=60)
    bench.redis.zadd(bench.keys.workers, {worker_id: at_ms})


def test_a_worker_of_twenty_thousand_models_is_passed_over(bench):
    bench.live()
    put_worker(bench, "forged", 1, {f"model-{n}-{'x' * 200}": "f" * 500 for n in range(20_000)})
    status = read_status(bench.settings)
    assert [worker.name for worker in status.workers] == ["w"]
    assert {lane.model for lane in status.lanes} == {"paper"}


def test_thousands_of_forged_workers_are_no_flood(bench):
    for n in range(2 * MAX_WORKERS):
        bench.redis.zadd(bench.keys.workers, {f"none-{n}": 1})
    for n in range(100):
        put_worker(bench, f"forged-{n}", 1 + n, {f"m{i}": "f" for i in range(128)})
    bench.live()
    status = read_status(bench.settings)
    assert len(status.workers) == MAX_STATUS_WORKERS
    assert "w" in {worker.name for worker in status.workers}
    assert len(status.lanes) <= 2_048


def bury(bench, packed, job_id):
    """Commits a chunk with a letter."""
    bench.submit([f"{n:04d} " * 16 for n in range(2)], job_id=job_id)
    ref = bench.take().ref
    assert bench.run(claims.commit(bench.keys, ref, b"reply", [packed]))


def test_letters_after_one_from_the_far_future_have_ids_and_are_listed(bench, client):
    bench.redis.xadd(bench.keys.dead, {"l": letter("a", index=0)}, id="9999999999999999-0")
    bury(bench, letter("b", index=1), "later")
    assert [x.index for x in client.dead.list()] == [1, 0]
    newest = client.dead.list()[0]
    assert newest.id == "9999999999999999-1"
    assert client.dead.drop(newest.id)


def test_a_stream_without_ids_left_begins_anew_and_no_chunk_is_lost(bench, client):
    last = f"{(1 << 64) - 1}-{(1 << 64) - 1}"
    bench.redis.xadd(bench.keys.dead, {"l": letter("a", index=0)}, id=last)
    assert client.dead.get(last).index == 0
    bury(bench, letter("b", index=1), "later")
    bury(bench, letter("c", index=2), "still")
    assert [x.index for x in client.dead.list()] == [2, 1]
    assert dead_letter.check_id(client.dead.list()[0].id)
    assert bench.status("later").chunks_done + bench.status("still").chunks_done == 2


@pytest.mark.parametrize("method", ["list", "get"])
def test_a_letter_of_no_letter_s_size_is_unreadable(bench, client, method):
    bench.redis.xadd(bench.keys.dead, {"l": b"x" * (1 << 20)}, id="5-0")
    if method == "list":
        assert [x.reason for x in client.dead.list()] == ["unreadable"]
    else:
        with pytest.raises(MessageError, match="limit"):
            client.dead.get("5-0")
