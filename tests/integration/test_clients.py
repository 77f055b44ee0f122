"""Both clients on a real Valkey: the same cases, the same results."""

import asyncio
import dataclasses
import inspect
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedmill import (
    AsyncDeadLetters,
    AsyncEmbeddingClient,
    AsyncJob,
    AsyncJobs,
    ClientClosedError,
    DeadLetters,
    EmbeddingClient,
    InvalidRequestError,
    InvalidTextError,
    Job,
    JobCancelledError,
    JobConflictError,
    Jobs,
    JobState,
    MessageError,
    ResultExpiredError,
    ResultTimeoutError,
    TextsRejectedError,
    TooManyTextsError,
    UnknownModelError,
    unpack_binary,
)
from embedmill.jobs.chunking import split_into_jobs
from embedmill.protocol.chunks import Chunk, pack_chunk, pack_reply, unpack_chunk
from embedmill.protocol.vectors import Dtype, from_bytes
from embedmill.reply import Reason, Rejected
from embedmill.transport.aio import AsyncRedisTransport
from embedmill.transport.sync import RedisTransport
from embedmill_worker.jobs import claims
from support.waiting import join, wait_until

from .conftest import embed

TEXTS = [f"text {n} " * (n % 7 + 1) for n in range(30)]


class Awaited:
    """An async client or job with its methods awaited, so that one test speaks to both."""

    def __init__(self, inner, runner):
        self._inner = inner
        self._run = runner.run
        self._runner = runner

    def __getattr__(self, name):
        member = getattr(self._inner, name)
        if isinstance(member, AsyncDeadLetters | AsyncJobs):
            return Awaited(member, self._runner)
        if not callable(member):
            return member

        def call(*args, **kwargs):
            return self._given(member(*args, **kwargs))

        return call

    def _each(self, parts):
        while (part := self._run(following(parts))) is not None:
            yield part

    def _given(self, value):
        if inspect.isasyncgen(value):
            return self._each(value)
        if inspect.iscoroutine(value):
            value = self._run(value)
        return Awaited(value, self._runner) if isinstance(value, AsyncJob) else value


async def following(parts):
    return await anext(parts, None)


@pytest.fixture(params=["sync", "async"])
def make_client(request):
    """Makes clients of one of the two kinds."""
    made = []
    with asyncio.Runner() as runner:

        def make(redis_url, namespace, model="paper"):
            if request.param == "sync":
                made.append(EmbeddingClient(redis_url, model, namespace=namespace))
            else:
                made.append(Awaited(AsyncEmbeddingClient(redis_url, model, namespace=namespace), runner))
            return made[-1]

        yield make
        for client in made:
            client.close()


@pytest.fixture
def client(make_client, bench):
    """A client of the bench's namespace."""
    return make_client(bench.redis_url, bench.namespace)


@pytest.fixture
def worker(bench):
    """A thread that embeds."""
    with bench.worker():
        yield


def job_keys(bench):
    return bench.redis.keys(f"{bench.namespace}:v2:job:*")


def later(delay_s, call, *args):
    """Does something while the test waits."""
    timer = threading.Timer(delay_s, call, args)
    timer.start()
    return timer


def test_vectors_come_back_in_input_order_and_nothing_stays(client, bench, worker, expected):
    assert np.array_equal(client.embed(TEXTS), expected(TEXTS))
    assert job_keys(bench) == []


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
def test_vectors_come_in_the_dtype_that_was_asked_for(client, worker, expected, dtype):
    vectors = client.embed(TEXTS, dtype=dtype)
    assert len(vectors) == len(TEXTS)
    wanted = expected(TEXTS)
    if dtype == "int8":
        assert np.abs(vectors / 127 - wanted).max() < 0.005
    elif dtype == "binary":
        assert np.array_equal(unpack_binary(vectors), np.where(wanted > 0, 1, -1))
    else:
        assert np.abs(vectors - wanted).max() < 0.001


def test_fewer_dimensions_are_cut_and_renormalised(client, worker, expected):
    vectors = client.embed(TEXTS, dimensions=4)
    assert vectors.shape == (len(TEXTS), 4)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)


def test_a_small_call_takes_three_round_trips(client, worker, monkeypatch):
    asked = []
    for link in (RedisTransport, AsyncRedisTransport):
        exchange = link._exchange

        def counted(self, ask, deadline_s, exchange=exchange):
            if threading.current_thread() is threading.main_thread():  # the worker's is another
                asked.append(ask)
            return exchange(self, ask, deadline_s)

        monkeypatch.setattr(link, "_exchange", counted)
    client.embed(["first, to have the model cards read"])
    asked.clear()
    client.embed(["small"])
    assert [ask.commands[0][0] for ask in asked] == ["HSET", "XREAD", "HMGET"]


def test_texts_of_a_job_that_redis_lost_are_sent_again(client, bench, expected):
    def lose_once():
        jobs = wait_until(lambda: bench.redis.zrange(bench.keys.active("paper", "interactive"), 0, -1))
        bench.run(_end(bench, jobs[0].decode(), "delete"))
        with bench.worker():
            done.wait(60)

    done = threading.Event()
    thread = threading.Thread(target=lose_once)
    thread.start()
    try:
        assert np.array_equal(client.embed(["kept"]), expected(["kept"]))
    finally:
        done.set()
        join(thread)
    assert job_keys(bench) == []


def test_texts_that_redis_loses_again_and_again_are_sent_again_until_the_client_gives_up(client, bench, expected):
    lost = []

    def lose(times):
        deadline = time.monotonic() + 60
        while len(lost) < times and time.monotonic() < deadline:
            jobs = bench.redis.zrange(bench.keys.active("paper", "interactive"), 0, -1)
            if jobs and bench.run(_end(bench, jobs[0].decode(), "delete")):
                lost.append(jobs[0])
            time.sleep(0.005)

    thread = threading.Thread(target=lose, args=(3,))
    thread.start()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.embed, ["kept"])
        join(thread)
        with bench.worker():
            assert np.array_equal(waiting.result(60), expected(["kept"]))
    assert len(set(lost)) == 1  # always under the same id
    assert job_keys(bench) == []


def test_long_inputs_go_in_windows(client, bench, worker, expected, monkeypatch):
    monkeypatch.setitem(split_into_jobs.__kwdefaults__, "max_texts", 7)
    texts = TEXTS * 8  # more than one chunk
    assert np.array_equal(client.embed(texts), expected(texts))
    assert job_keys(bench) == []


def test_no_texts_give_no_vectors_of_the_model_s_dimension(client, worker):
    assert client.embed([]).shape == (0, 8)
    assert list(client.submit([]).iter_results()) == []


def test_a_job_is_done_in_the_background(client, worker, expected):
    job = client.submit(TEXTS)
    status = job.wait(30)
    assert status.state is JobState.DONE
    assert (status.n_texts, status.texts_done, status.chunks_done) == (30, 30, status.chunks)
    assert (status.model, status.lane, status.fingerprint) == ("paper", "bulk", "f")
    assert abs(status.submitted_at_s - time.time()) < 300
    for _ in range(2):
        reply = job.result(30)
        assert np.array_equal(reply.vectors, expected(TEXTS))
        assert reply.token_counts.tolist() == [len(text) for text in TEXTS]
        assert (reply.model, reply.fingerprint, reply.runtime) == ("paper", "f", "paper 1")
        assert set(reply.timings_ms) == {"queue", "tokenization", "inference"}


def test_any_process_may_ask_for_a_job_by_its_id(client, make_client, bench, worker, expected):
    job = client.submit(TEXTS, job_id="mine.1")
    other = make_client(bench.redis_url, bench.namespace, model=None)
    assert np.array_equal(other.job("mine.1").result(30).vectors, expected(TEXTS))
    assert other.job(job.id).delete()
    assert not job.delete()


def test_parts_come_as_they_complete_each_once(client, worker, expected):
    job = client.submit(TEXTS)
    for _ in range(2):
        rows = np.full((30, 8), np.nan, dtype=np.float32)
        for part in job.iter_results():
            assert np.isnan(rows[part.indices]).all()
            rows[part.indices] = part.vectors
        assert np.array_equal(rows, expected(TEXTS))


def test_the_same_id_and_content_is_the_same_job(client, worker):
    client.submit(TEXTS, job_id="once").wait(30)
    client.submit(TEXTS, job_id="once", ttl_s=5)
    with pytest.raises(JobConflictError):
        client.submit(TEXTS[:-1], job_id="once")
    assert client.job("once").status().state is JobState.DONE


def test_a_text_without_a_vector_does_not_take_the_others_with_it(client, bench, worker, expected):
    texts = ["fine", "x\ud800", "also fine"]
    with pytest.raises(TextsRejectedError) as caught:
        client.embed(texts)
    reply = caught.value.reply
    assert [(r.index, r.reason) for r in reply.rejected] == [(1, Reason.INVALID_UNICODE)]
    assert np.array_equal(reply.vectors[[0, 2]], expected(["fine", "also fine"]))
    assert np.isnan(reply.vectors[1]).all()
    parts = list(client.submit(texts).iter_results())
    assert sorted(int(i) for part in parts for i in part.indices) == [0, 1, 2]
    assert [r.index for part in parts for r in part.rejected] == [1]
    assert client.submit(["\ud800"]).result(30).rejected[0].index == 0


def test_texts_of_a_chunk_that_no_worker_could_read_are_rejected_in_either_way(client, bench, expected):
    job = client.submit(TEXTS[:3])
    claim = bench.take()
    kept = bench.commit(dataclasses.replace(claim, texts=pack_chunk(without_row(unpack_chunk(claim.texts), 1))))
    assert kept
    reply = job.result(30)
    assert [(r.index, r.reason) for r in reply.rejected] == [(1, Reason.FAILED)]
    assert np.array_equal(reply.vectors[[0, 2]], expected([TEXTS[0], TEXTS[2]]))
    parts = list(job.iter_results())
    assert sorted(int(i) for part in parts for i in part.indices) == [0, 1, 2]
    assert [(r.index, r.reason) for part in parts for r in part.rejected] == [(1, Reason.FAILED)]


def test_vectors_whose_news_redis_has_lost_are_read_in_either_way(client, bench, expected):
    bench.announce(bench.card())
    job = client.submit(TEXTS)
    assert job.status().chunks > 3
    bench.work()
    parts = job.iter_results()
    first = next(parts)
    bench.redis.delete(bench.keys.events(job.id))
    bench.work()
    bench.redis.xadd(bench.keys.events(job.id), {"x": "x"}, id="18446744073709551615-18446744073709551615")
    while bench.work():  # Redis takes no news behind that: other ones are begun
        pass
    later_parts = list(parts)
    assert sorted(int(i) for part in [first, *later_parts] for i in part.indices) == list(range(len(TEXTS)))
    bench.redis.delete(bench.keys.events(job.id))
    assert job.wait(10).state == "done"
    assert np.array_equal(job.result(10).vectors, expected(TEXTS))
    assert not any(part.rejected for part in job.iter_results())


def test_a_waiter_is_told_that_a_job_has_lost_its_texts_and_embed_sends_them_again(client, bench, expected):
    job = client.submit(TEXTS[:3])
    bench.redis.delete(bench.keys.texts(job.id))
    for wait in (lambda: job.wait(30), lambda: job.result(30), lambda: list(job.iter_results())):
        with pytest.raises(ResultExpiredError):
            wait()
    with ThreadPoolExecutor() as threads:
        called = threads.submit(client.embed, TEXTS[:3], timeout_s=60)
        wait_until(
            lambda: (found := bench.redis.keys(f"{bench.keys.job_prefix}*:texts")) and bench.redis.delete(*found)
        )
        with bench.worker():
            assert np.array_equal(called.result(60), expected(TEXTS[:3]))


def forge(bench, **changes):
    """Commits a reply to the next chunk in which something is changed; a callable is given the right rows."""
    claim = bench.take()
    honest = embed(claim)
    rows = from_bytes(honest.vectors, honest.dtype, honest.dimension).copy()
    made = {name: change(rows) if callable(change) else change for name, change in changes.items()}
    assert bench.run(claims.commit(bench.keys, claim.ref, pack_reply(dataclasses.replace(honest, **made))))


def spoilt(rows):
    rows[1, 3] = np.inf
    return rows.tobytes()


def seen(reply):
    """Row and reason of each text, by ``result()``."""
    reasons = {r.index: r.reason for r in reply.rejected}
    return {i: (row.tobytes(), reasons.get(i)) for i, row in enumerate(reply.vectors)}


def seen_in_parts(parts):
    """The same by ``iter_results()``."""
    found = {}
    for part in parts:
        reasons = {r.index: r.reason for r in part.rejected}
        found |= {
            int(i): (row.tobytes(), reasons.get(int(i))) for i, row in zip(part.indices, part.vectors, strict=True)
        }
    return found


def test_a_row_that_is_not_finite_in_a_reply_is_rejected_in_every_way(client, bench, expected):
    job = client.submit(TEXTS[:3])
    forge(bench, vectors=spoilt)
    reply = job.result(30)
    assert [(r.index, r.reason) for r in reply.rejected] == [(1, Reason.NOT_FINITE)]
    assert np.isnan(reply.vectors[1]).all()
    assert np.array_equal(reply.vectors[[0, 2]], expected([TEXTS[0], TEXTS[2]]))
    assert seen(reply) == seen_in_parts(job.iter_results())

    forging = later(0, lambda: wait_until(lambda: bench.counts()["open"]) and forge(bench, vectors=spoilt))
    with pytest.raises(TextsRejectedError) as caught:
        client.embed(TEXTS[:3], lane="bulk")
    forging.join(30)
    assert seen(caught.value.reply) == seen(reply)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"dtype": Dtype.BINARY, "dimension": 384, "vectors": bytes(3 * 48)},
            "a reply holds vectors of binary, not of float32",
        ),
        (
            {"rejected": (Rejected(index=60_000, reason=Reason.FAILED, detail=""),)},
            "a reply rejects a text that is not in its chunk",
        ),
        ({"indices": np.array([0, 1, 60_000], dtype=np.uint32)}, "a reply names row 60000 of 3"),
        ({"indices": np.array([0, 1, 1], dtype=np.uint32)}, "a reply names a row twice"),
        ({"dimension": 4, "vectors": bytes(3 * 16)}, "a reply holds vectors of 4 components, not of 8"),
    ],
)
def test_what_one_way_of_reading_refuses_all_do(client, bench, changes, said):
    job = client.submit(TEXTS[:3], dimensions=8)
    forge(bench, **changes)
    for read in (lambda: job.result(30), lambda: list(job.iter_results())):
        with pytest.raises(MessageError) as caught:
            read()
        assert str(caught.value) == said


def without_row(chunk, row):
    kept = [n for n, index in enumerate(chunk.indices) if index != row]
    return Chunk(indices=chunk.indices[kept], texts=tuple(chunk.texts[n] for n in kept))


@pytest.mark.parametrize(
    ("texts", "options", "error"),
    [
        (["fine", 3], {}, InvalidTextError),
        ("one text", {}, InvalidRequestError),
        (["a"], {"dtype": "float64"}, InvalidRequestError),
        (["a"], {"dimensions": 9}, InvalidRequestError),
        (["a"], {"dimensions": 0}, InvalidRequestError),
        (["a"], {"dtype": "binary", "dimensions": 4}, InvalidRequestError),
        (["a"], {"input_type": "document"}, InvalidRequestError),
        (["a"], {"truncate": 1}, InvalidRequestError),
        (["a"], {"lane": "express"}, InvalidRequestError),
        (["a"], {"model": "two words"}, InvalidRequestError),
    ],
)
def test_what_cannot_be_served_is_refused_and_nothing_is_sent(client, bench, texts, options, error):
    bench.announce(bench.card())
    bench.live()
    for call in (client.embed, client.submit):
        with pytest.raises(error):
            call(texts, **options)
    assert job_keys(bench) == []


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), "1", True])
def test_a_timeout_is_a_positive_number_of_seconds(client, timeout_s):
    for call in (lambda: client.embed(["a"], timeout_s=timeout_s), lambda: client.job("j").wait(timeout_s)):
        with pytest.raises(InvalidRequestError, match="timeout_s"):
            call()


def test_a_job_of_too_many_texts_is_refused(client, bench):
    with pytest.raises(TooManyTextsError, match="65537 texts"):
        client.submit(["a"] * 65_537)
    assert job_keys(bench) == []


def test_bad_texts_are_refused_even_when_there_is_no_redis(make_client, tmp_path):
    client = make_client(f"unix://{tmp_path}/nothing.sock", "ns")
    for call in (client.embed, client.submit):
        with pytest.raises(InvalidTextError):
            call(["fine", None])
        with pytest.raises(InvalidRequestError):
            call(["fine"], lane="express")


def test_a_call_that_names_no_timeout_has_the_clients(bench):
    with EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace, timeout_s=0.2) as client:
        job = client.submit(TEXTS)
        for call in (lambda: client.embed(TEXTS), job.wait, job.result):
            with pytest.raises(ResultTimeoutError, match=r"after 0\.2 s"):
                call()


def test_without_a_worker_a_timeout_says_so_and_leaves_nothing(client, bench):
    with pytest.raises(ResultTimeoutError, match=r"No worker serves paper; start one with EMBEDMILL_MODEL=paper"):
        client.embed(TEXTS, timeout_s=1.0)
    assert job_keys(bench) == []
    job = client.submit(TEXTS)
    with pytest.raises(ResultTimeoutError) as caught:
        job.wait(0.2)
    assert (caught.value.job_id, caught.value.waited_s) == (job.id, 0.2)
    with pytest.raises(ResultTimeoutError):
        job.result(0.2)
    assert job.status().state is JobState.QUEUED


def test_work_for_a_model_that_comes_later_is_accepted(client, bench, expected):
    job = client.submit(["early"])
    with bench.worker():
        assert np.array_equal(job.result(30).vectors, expected(["early"]))


def test_waiters_of_a_cancelled_job_are_told(client, bench):
    job = client.submit(TEXTS)
    timer = later(0.2, lambda: bench.run(_end(bench, job.id, "cancel")))
    with pytest.raises(JobCancelledError):
        job.result(30)
    join(timer)
    for call in (job.wait, job.result):
        with pytest.raises(JobCancelledError):
            call(30)
    with pytest.raises(JobCancelledError):
        list(job.iter_results())
    assert job.status().state is JobState.CANCELLED
    assert job.cancel()


def test_waiters_of_a_deleted_job_are_told(client, bench):
    job = client.submit(TEXTS)
    timer = later(0.2, lambda: bench.run(_end(bench, job.id, "delete")))
    with pytest.raises(ResultExpiredError):
        job.wait(30)
    join(timer)
    for call in (job.status, lambda: job.result(1), lambda: list(job.iter_results()), job.cancel):
        with pytest.raises(ResultExpiredError):
            call()


def _end(bench, job_id, how):
    from embedmill.jobs import reading

    return reading.end(bench.keys, job_id, how)


def test_a_finished_job_is_not_cancelled(client, worker):
    job = client.submit(TEXTS)
    job.wait(30)
    assert not job.cancel()
    assert job.status().state is JobState.DONE


def test_the_only_model_announced_is_meant_when_none_is_named(make_client, bench, expected):
    client = make_client(bench.redis_url, bench.namespace, model=None)
    with pytest.raises(UnknownModelError, match="no worker has announced one"):
        client.embed(["a"])
    with bench.worker():
        assert np.array_equal(client.embed(["a"]), expected(["a"]))


def test_among_several_models_one_must_be_named(make_client, bench, expected):
    client = make_client(bench.redis_url, bench.namespace, model=None)
    with bench.worker(models=("one", "two")):
        with pytest.raises(UnknownModelError, match="one, two"):
            client.submit(["a"])
        assert np.array_equal(client.embed(["a"], model="two"), expected(["a"]))


def test_a_closed_client_refuses_every_call_as_do_its_jobs_and_letters(client, bench, worker):
    job = client.submit(["a"])
    job.wait(30)
    client.close()
    client.close()
    calls = [
        lambda: client.embed(["a"]),
        lambda: client.submit(["a"]),
        lambda: client.job(job.id),
        job.status,
        lambda: job.wait(1),
        lambda: job.result(1),
        lambda: list(job.iter_results()),
        job.cancel,
        job.delete,
        lambda: client.dead.list(),
        lambda: client.jobs.list(),
        lambda: client.dead.get("1-0"),
        lambda: client.dead.requeue("1-0"),
        lambda: client.dead.drop("1-0"),
        lambda: client.dead.drop_all(),
    ]
    for call in calls:
        with pytest.raises(ClientClosedError, match="the client is closed"):
            call()
    assert bench.redis.exists(bench.keys.job(job.id))


@pytest.mark.parametrize("client", [EmbeddingClient, AsyncEmbeddingClient])
def test_a_client_says_where_it_goes_and_hides_the_password(client):
    shown = repr(client("redis://me:hidden@h/0", "m", namespace="n"))
    assert shown == f"{client.__name__}(redis_url='redis://me:***@h/0', model='m', namespace='n')"


def test_a_blocking_client_may_be_entered_again_once_closed_but_not_used(bench):
    client = EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace)
    with client, client:
        pass
    with client, pytest.raises(ClientClosedError):
        client.embed(["a"])
    assert repr(client).endswith(", closed)")


def test_closing_an_async_client_ends_the_calls_that_wait(bench):
    bench.announce(bench.card())
    bench.live()

    async def use():
        client = AsyncEmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace)
        job = await client.submit(["a"])
        calls = [asyncio.create_task(call) for call in (job.wait(30), job.result(30), client.embed(["b"]))]
        await asyncio.sleep(0.2)
        await client.close()
        assert [type(e) for e in await asyncio.gather(*calls, return_exceptions=True)] == [ClientClosedError] * 3

    asyncio.run(use())


@pytest.mark.parametrize("waits", ["wait", "result", "embed"])
def test_closing_a_blocking_client_ends_the_calls_that_wait_in_other_threads(bench, waits):
    bench.announce(bench.card())
    bench.live()
    client = EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace)
    job = client.submit(["a"])
    calls = {
        "wait": lambda: job.wait(30),
        "result": lambda: job.result(30),
        "embed": lambda: client.embed(["b"], timeout_s=30),
    }

    def jobs():
        return [
            id for lane in ("interactive", "bulk") for id in bench.redis.zrange(bench.keys.active("paper", lane), 0, -1)
        ]

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(calls[waits])
        wait_until(lambda: len(jobs()) == (2 if waits == "embed" else 1))
        time.sleep(0.2)
        client.close()
        with pytest.raises(ClientClosedError):
            call.result(10)
    assert jobs() == [job.id.encode()], "the job of embed is deleted, that of submit goes on"


@pytest.mark.parametrize(
    ("sync", "awaited"),
    [(EmbeddingClient, AsyncEmbeddingClient), (Job, AsyncJob), (DeadLetters, AsyncDeadLetters), (Jobs, AsyncJobs)],
    ids=["client", "job", "dead", "jobs"],
)
def test_both_clients_have_the_same_methods_and_arguments(sync, awaited):
    def public(cls):
        return {n: m for n, m in vars(cls).items() if not n.startswith("_") and callable(m)}

    assert public(sync).keys() == public(awaited).keys()
    for name, method in public(sync).items():
        ours, theirs = inspect.signature(method), inspect.signature(public(awaited)[name])
        assert list(ours.parameters.values()) == list(theirs.parameters.values()), name


def test_one_client_serves_twelve_threads(bench, worker, expected):
    with EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:

        def use(n):
            texts = [f"thread {n} text {i}" for i in range(5)]
            return all(np.array_equal(client.embed(texts), expected(texts)) for _ in range(5))

        with ThreadPoolExecutor(12) as pool:
            assert all(pool.map(use, range(12)))
    assert job_keys(bench) == []


def wait_for_jobs(bench, count):
    """Waits until so many jobs are stored."""
    wait_until(lambda: bench.redis.zcard(bench.keys.active("paper", "interactive")) >= count)


def test_more_threads_may_wait_than_redis_py_has_connections_by_default(bench, expected):
    with (
        EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client,
        ThreadPoolExecutor(110) as pool,
    ):
        calls = [pool.submit(client.embed, [f"call {n}"]) for n in range(110)]
        wait_for_jobs(bench, 110)
        with bench.worker():
            vectors = [call.result(60) for call in calls]
    assert np.array_equal(np.concatenate(vectors), expected([f"call {n}" for n in range(110)]))


def test_more_calls_may_wait_than_an_async_client_has_connections(bench, expected, monkeypatch):
    monkeypatch.setattr("embedmill.transport.aio.WAITING_CONNECTIONS", 3)
    monkeypatch.setattr("embedmill.transport.aio.BRIEF_CONNECTIONS", 2)
    monkeypatch.setattr("embedmill.transport.aio.REPLY_S", 1.0)

    # Calls of more than a chunk each: others would share jobs.
    async def use():
        async with AsyncEmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
            calls = asyncio.gather(*(client.embed([f"call {n}"] * 300) for n in range(40)))
            await asyncio.to_thread(wait_for_jobs, bench, 40)
            await asyncio.sleep(1.5)  # longer than a reply may take
            with bench.worker():
                return await calls

    vectors = asyncio.run(use())
    assert np.array_equal(np.concatenate(vectors), expected([f"call {n}" for n in range(40) for _ in range(300)]))
    assert job_keys(bench) == []


def test_one_async_client_serves_hundreds_of_calls_at_once(bench, worker, expected):
    async def use():
        async with AsyncEmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
            return await asyncio.gather(*(client.embed([f"call {n}"]) for n in range(300)))

    vectors = asyncio.run(use())
    assert np.array_equal(np.concatenate(vectors), expected([f"call {n}" for n in range(300)]))


def test_an_async_client_may_be_used_in_one_event_loop_after_another(bench, worker, expected):
    client = AsyncEmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace)

    async def use():
        try:
            return await client.embed(["a"])
        finally:
            await client.transport.disconnect()

    for _ in range(20):
        assert np.array_equal(asyncio.run(use()), expected(["a"]))


def test_an_async_client_may_be_used_in_two_event_loops_at_once(bench, worker, expected):
    client = AsyncEmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace)

    async def use(n):
        try:
            return [await client.embed([f"{n} {i}"]) for i in range(10)]
        finally:
            await client.transport.disconnect()

    with ThreadPoolExecutor(4) as pool:
        for n, vectors in enumerate(pool.map(lambda n: asyncio.run(use(n)), range(4))):
            assert np.array_equal(np.concatenate(vectors), expected([f"{n} {i}" for i in range(10)]))


def test_a_cancelled_embed_cancels_its_work(bench):
    async def use():
        async with AsyncEmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
            call = asyncio.create_task(client.embed(TEXTS, lane="bulk"))
            await asyncio.to_thread(wait_until, lambda: job_keys(bench))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(use())
    assert job_keys(bench) == []


def test_the_event_loop_goes_on_while_a_call_waits(bench):
    async def use():
        async with AsyncEmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as client:
            waiting = asyncio.create_task(client.embed(TEXTS, timeout_s=0.3))
            turns = 0
            while not waiting.done():
                await asyncio.sleep(0)
                turns += 1
            with pytest.raises(ResultTimeoutError):
                await waiting
            return turns

    assert asyncio.run(use()) > 50


def test_who_only_follows_a_job_is_told_why_it_is_late(client, bench):
    job_id = client.submit(["a text"]).id
    bench.announce(bench.card())
    bench.live()
    follower = EmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace)
    with follower, pytest.raises(ResultTimeoutError, match="0 of 1 chunks are done") as caught:
        follower.job(job_id).result(0.2)
    assert "No worker serves" not in str(caught.value)
