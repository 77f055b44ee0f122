"""``client.jobs`` on a real Valkey: the newest first, in bounds, whatever lies among the keys."""

import asyncio
import json

import pytest

from embedmill import AsyncEmbeddingClient, EmbeddingClient, InvalidRequestError, JobState, JobStatus
from embedmill.jobs import listing
from embedmill_worker.cli import main
from support.servers import plain_redis

TEXTS = [f"{n:04d} " * 16 for n in range(3)]


@pytest.fixture(params=["blocking", "asyncio"])
def listed(request, bench):
    """Calls ``client.jobs.list``, on one client or the other."""
    how = {"redis_url": bench.redis_url, "model": "paper", "namespace": bench.namespace}

    async def awaited(**asked):
        async with AsyncEmbeddingClient(**how) as client:
            return await client.jobs.list(**asked)

    if request.param == "asyncio":
        return lambda **asked: asyncio.run(awaited(**asked))
    client = EmbeddingClient(**how)
    request.addfinalizer(client.close)
    return client.jobs.list


def put(bench, job_id, **fields):
    """Writes a record by hand."""
    known = {"state": "done", "model": "paper", "lane": "bulk", "n_rows": 1, "n_texts": 1, "left_texts": 0}
    known |= {"n_chunks": 1, "done": 1, "created_ms": 1_000}
    bench.redis.hset(bench.keys.job(job_id), mapping=known | fields)


def test_jobs_of_every_state_are_listed_the_newest_first(bench, listed):
    assert list(listed()) == []
    for created_ms, name in enumerate(("one", "two", "three"), 1_000):
        bench.submit(TEXTS, job_id=name)
        bench.redis.hset(bench.keys.job(name), "created_ms", created_ms)
        while name == "one" and bench.status("one").state is not JobState.DONE:  # before others take turns with it
            bench.work()
    with EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
        assert client.job("two").cancel()
        assert client.job("three").status().state is JobState.QUEUED
        found = listed()
        assert [status.job_id for status in found] == ["three", "two", "one"]
        assert [status.state for status in found] == [JobState.QUEUED, JobState.CANCELLED, JobState.DONE]
        assert list(found) == [client.job(status.job_id).status() for status in found]
    assert (found.n_found, found.is_cut, found.n_unreadable) == (3, False, 0)
    assert [status.job_id for status in listed(state="done")] == ["one"]
    cut = listed(limit=2)
    assert ([status.job_id for status in cut], cut.n_found, cut.is_cut) == (["three", "two"], 3, True)


def test_what_is_no_job_is_passed_over_and_what_cannot_be_read_is_counted(bench, listed):
    put(bench, "good")
    put(bench, "no-lane", lane="nowhere")
    put(bench, "escape", model=b"\x1b[2J")
    put(bench, "endless", n_texts="9" * 400)
    put(bench, "contrary", left_texts=2)
    put(bench, "a b")
    put(bench, "x" * 200)
    put(bench, "good:sub")
    bench.redis.set(bench.keys.job("a-string"), "x")
    bench.redis.hset(bench.keys.job("no-record"), "x", "y")
    bench.redis.hset(f"{bench.namespace}:v2:job:\x1b", "state", "done")
    bench.redis.sadd(bench.keys.lanes, b"paper bulk", b"\x1b bulk", b"paper", b"other bulk")
    bench.redis.zadd(bench.keys.active("paper", "bulk"), {"gone": 1, b"\x1b[2J": 2, "a-string": 3})
    bench.redis.set(bench.keys.active("other", "bulk"), "x")
    found = listed()
    assert [status.job_id for status in found] == ["good"]
    assert found.n_unreadable == 5
    assert not found.is_cut


def test_twenty_thousand_jobs_are_listed_in_bounds(bench, listed):
    pipeline = bench.redis.pipeline(transaction=False)
    for n in range(20_000):
        known = {"state": "done", "model": "paper", "lane": "bulk", "n_rows": 1, "n_texts": 1, "left_texts": 0}
        pipeline.hset(bench.keys.job(f"job{n}"), mapping=known | {"n_chunks": 1, "done": 1, "created_ms": n})
    pipeline.execute()
    found = listed(limit=3)
    assert [status.job_id for status in found] == ["job19999", "job19998", "job19997"]
    assert (found.n_found, found.is_cut) == (20_000, True)


def test_a_redis_with_too_many_keys_is_not_looked_through(bench, listed, monkeypatch):
    monkeypatch.setattr(listing, "MAX_PAGES", 1)
    monkeypatch.setattr(listing, "SCAN_PAGE", 1)
    bench.submit(TEXTS, job_id="unfinished")
    for n in range(50):
        put(bench, f"done{n}")
    found = listed()
    assert "unfinished" in {status.job_id for status in found}
    assert found.is_cut
    assert not found.is_complete


def test_a_user_who_may_not_scan_sees_what_is_unfinished(bench, redis_url, namespace, capsys):
    put(bench, "over")
    bench.submit(TEXTS, job_id="unfinished")
    user = f"u{namespace}"
    bench.redis.execute_command("ACL", "SETUSER", user, "on", ">p", "~*", "+@all", "-scan")
    try:
        with plain_redis(redis_url) as server:
            url = f"unix://{user}:p@{server.connection_pool.connection_kwargs['path']}?db=0"
        with EmbeddingClient(url, namespace=namespace) as client:
            found = client.jobs.list()
        assert main(["jobs", "list", "--redis-url", url, "--namespace", namespace]) == 0
    finally:
        bench.redis.execute_command("ACL", "DELUSER", user)
    assert [status.job_id for status in found] == ["unfinished"]
    assert found.is_cut
    assert "some finished jobs may be missing" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": True}, {"limit": 10**9}, {"state": "lost"}, {"state": 7}])
def test_a_limit_or_a_state_that_is_none_is_refused(listed, wrong):
    with pytest.raises(InvalidRequestError):
        listed(**wrong)


def run(bench, capsys, *words):
    """Runs a command in this process."""
    code = main([*words, "--redis-url", bench.redis_url, "--namespace", bench.namespace])
    return code, *capsys.readouterr()


def test_an_id_that_nobody_has_is_named_and_the_others_are_ended(bench, capsys):
    for name in ("one", "two", "three"):
        bench.submit(TEXTS, job_id=name)
    code, out, err = run(bench, capsys, "jobs", "cancel", "one", "nobody", "two")
    assert (code, out) == (2, "one cancelled\ntwo cancelled\n")
    assert err.startswith("embedmill: job nobody does not exist: ")
    code, out, err = run(bench, capsys, "jobs", "delete", "one", "one-more")
    assert (code, out, err.count("\n")) == (2, "one deleted\n", 1)
    assert not bench.redis.exists(bench.keys.job("one"))
    assert run(bench, capsys, "jobs", "show", "one")[0] == 2
    code, _, err = run(bench, capsys, "jobs", "cancel", "three", "a:b")
    assert (code, "job_id" in err, bench.status("three").state) == (2, True, JobState.QUEUED)


def test_what_is_listed_and_shown_is_all_that_a_status_has_and_no_text(bench, capsys):
    bench.submit(TEXTS, job_id="one")
    code, out, err = run(bench, capsys, "jobs", "list")
    assert (code, err) == (0, "")
    assert out.split("\n")[1].split()[:6] == ["one", "paper", "bulk", "queued", "0/3", "0/3"]
    shown = json.loads(run(bench, capsys, "jobs", "show", "one", "--json")[1])
    assert set(shown) == {*JobStatus.__dataclass_fields__, "id", "submitted_at"} - {"job_id"}
    (listed,) = json.loads(run(bench, capsys, "jobs", "list", "--json")[1])["jobs"]
    assert listed.pop("age_s") >= 0
    assert listed == shown
    assert TEXTS[0][:9] not in out + run(bench, capsys, "jobs", "show", "one")[1]
    cut = json.loads(run(bench, capsys, "jobs", "list", "--json", "--state", "done")[1])
    assert cut == {"jobs": [], "is_cut": False, "found": 0, "unreadable": 0}
