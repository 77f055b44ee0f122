"""Calls of one async client that share jobs, on a real Valkey: everybody keeps an outcome of their own."""

import asyncio
import re
import subprocess
import sys

import numpy as np
import pytest

from embedmill import (
    AsyncEmbeddingClient,
    BrokerUnavailableError,
    ClientClosedError,
    InvalidTextError,
    QueueFullError,
    ResultTimeoutError,
    TextsRejectedError,
    UnknownModelError,
)
from embedmill.jobs import submission
from embedmill.jobs.coalescing import BatchKey
from embedmill.protocol.chunks import unpack_chunk
from embedmill.protocol.options import EmbedOptions
from embedmill.reply import Reason
from embedmill.transport.aio import AsyncRedisTransport

#: More than any chunk of a model that is not announced yet.
LARGE = ["a large call"] * 400


@pytest.fixture
def sent(monkeypatch):
    """The jobs that were submitted: (options, texts, chunks) of each."""
    jobs, submit = [], submission.submit

    def noted(keys, request, *rest, **block):
        texts = [text for payload in request.payloads for text in unpack_chunk(payload).texts]
        jobs.append((request.options, texts, len(request.payloads)))
        return submit(keys, request, *rest, **block)

    monkeypatch.setattr(submission, "submit", noted)
    return jobs


def job_keys(bench):
    return bench.redis.keys(f"{bench.namespace}:v2:job:*")


def run(bench, use):
    """Runs ``use(client)``; afterwards nothing may be left, neither in the event loop nor in Redis."""

    async def whole():
        async with AsyncEmbeddingClient(bench.redis_url, "paper", namespace=bench.namespace) as made:
            result = await use(made)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    result = asyncio.run(whole())
    assert job_keys(bench) == []
    return result


def called(client, texts, **options):
    return [asyncio.create_task(client.embed([text], **options)) for text in texts]


async def until_stored(bench, count):
    """Waits until so many jobs are in Redis: without a worker, a client puts two there and gathers behind them."""
    active = bench.keys.active("paper", "interactive")
    async with asyncio.timeout(60):
        while await asyncio.to_thread(bench.redis.zcard, active) != count:
            await asyncio.sleep(0.005)


def test_five_hundred_calls_share_few_jobs_and_each_has_its_vector(bench, sent, expected):
    texts = [f"call {n} " * (n % 9 + 1) for n in range(500)]
    with bench.worker():
        vectors = run(bench, lambda client: asyncio.gather(*called(client, texts)))
    assert np.array_equal(np.concatenate(vectors), expected(texts))
    assert sorted(text for _, job, _ in sent for text in job) == sorted(texts)
    assert len(sent) < 100
    assert all(chunks == 1 for _, job, chunks in sent if len(job) > 1)


def test_one_call_after_another_goes_out_at_once_and_alone(bench, sent, expected):
    async def use(client):
        return [await client.embed([f"call {n}"]) for n in range(5)]

    with bench.worker():
        vectors = run(bench, use)
    assert np.array_equal(np.concatenate(vectors), expected([f"call {n}" for n in range(5)]))
    assert [texts for _, texts, _ in sent] == [[f"call {n}"] for n in range(5)]


def test_a_large_call_shares_with_nobody_and_is_cut_as_ever(bench, sent, expected):
    async def use(client):
        return await asyncio.gather(client.embed(LARGE), *called(client, "abcdefgh"))

    with bench.worker():
        vectors = run(bench, use)
    assert np.array_equal(vectors[0], expected(LARGE))
    assert [chunks > 1 for _, texts, chunks in sent if texts == LARGE] == [True]
    assert np.array_equal(np.concatenate(vectors[1:]), expected("abcdefgh"))


def test_calls_with_other_options_share_no_job(bench, sent):
    kinds = [{"dimensions": 4}, {"dtype": "int8"}, {"truncate": False}, {"input_type": "query"}, {"lane": "bulk"}, {}]

    async def use(client):
        tasks = [
            task for n in range(10) for k, kind in enumerate(kinds) for task in called(client, [f"{k}.{n}"], **kind)
        ]
        return await asyncio.gather(*tasks)

    with bench.worker():
        vectors = run(bench, use)
    assert all(len({text[0] for text in texts}) == 1 for _, texts, _ in sent)
    assert len(sent) < 60
    assert [(v.shape, str(v.dtype)) for v in vectors[:6]] == [
        *[((1, 4), "float32"), ((1, 8), "int8")],
        *[((1, 8), "float32")] * 4,
    ]


def test_a_bad_text_rejects_its_own_caller_alone(bench, sent, expected):
    async def use(client):
        calls = called(client, [f"call {n}" for n in range(20)])
        calls.insert(7, asyncio.create_task(client.embed(["fine", "x\ud800", "fine too"])))
        with pytest.raises(InvalidTextError):
            await client.embed([b"bytes"])
        return await asyncio.gather(*calls, return_exceptions=True)

    with bench.worker():
        outcomes = run(bench, use)
    error = outcomes.pop(7)
    assert isinstance(error, TextsRejectedError)
    assert [(r.index, r.reason) for r in error.reply.rejected] == [(1, Reason.INVALID_UNICODE)]
    assert np.array_equal(error.reply.vectors[[0, 2]], expected(["fine", "fine too"]))
    assert np.array_equal(np.concatenate(outcomes), expected([f"call {n}" for n in range(20)]))
    assert any(len(texts) > 5 for _, texts, _ in sent)


def test_callers_that_are_cancelled_take_nobody_with_them(bench, sent, expected):
    async def use(client):
        calls = called(client, [f"call {n}" for n in range(10)])
        await until_stored(bench, 2)
        calls += called(client, [f"late {n}" for n in range(10)])
        await asyncio.sleep(0)
        for cancelled in (calls[0], calls[6], calls[7], calls[12]):
            cancelled.cancel()
        await asyncio.sleep(0)
        with bench.worker():
            return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = run(bench, use)
    gone = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, asyncio.CancelledError)]
    assert gone == [0, 6, 7, 12]
    texts = [f"call {n}" for n in range(10)] + [f"late {n}" for n in range(10)]
    kept = [n for n in range(20) if n not in gone]
    assert np.array_equal(np.concatenate([outcomes[n] for n in kept]), expected([texts[n] for n in kept]))
    assert not any("late 2" in job for _, job, _ in sent)


def test_a_job_is_cancelled_when_its_last_caller_is_gone(bench):
    async def use(client):
        calls = called(client, [f"call {n}" for n in range(10)])
        await until_stored(bench, 2)
        for cancelled in calls[:4]:
            cancelled.cancel()
        await asyncio.wait(calls[:4])
        await until_stored(bench, 2)
        calls[4].cancel()
        await asyncio.wait([calls[4]])
        await until_stored(bench, 1)
        with bench.worker():
            assert len(await asyncio.gather(*calls[5:])) == 5

    run(bench, use)


def test_each_caller_has_its_own_timeout(bench, expected):
    async def use(client):
        patient = called(client, [f"call {n}" for n in range(10)])
        (hasty,) = called(client, ["in a hurry"], timeout_s=1.0)
        await until_stored(bench, 2)
        (unsent,) = called(client, ["in a hurry too"], timeout_s=0.5)
        errors = await asyncio.gather(hasty, unsent, return_exceptions=True)
        with bench.worker():
            return errors, await asyncio.gather(*patient)

    errors, vectors = run(bench, use)
    assert [type(error) for error in errors] == [ResultTimeoutError] * 2
    assert [error.waited_s for error in errors] == [1.0, 0.5]
    # However slow this machine is: the first may not have got to Redis by then, and the second never does.
    assert re.search("No worker serves paper|had not reached Redis", str(errors[0]))
    assert "No worker serves paper" in str(errors[1])
    assert ("cancelled" in str(errors[0]), errors[1].job_id) == (False, "")
    assert np.array_equal(np.concatenate(vectors), expected([f"call {n}" for n in range(10)]))


def test_a_timeout_in_the_client_says_what_it_waited_behind(bench):
    async def use(client):
        first = called(client, "ab")
        await until_stored(bench, 2)
        with pytest.raises(ResultTimeoutError, match="behind 2 jobs"):
            await client.embed(["c"], timeout_s=0.2)
        for task in first:
            task.cancel()
        await asyncio.wait(first)

    bench.announce(bench.card())
    bench.live()
    run(bench, use)


def test_closing_tells_all_who_wait_and_leaves_nothing(bench):
    async def use(client):
        calls = [*called(client, [f"call {n}" for n in range(10)]), asyncio.create_task(client.embed(LARGE))]
        await until_stored(bench, 3)
        calls += called(client, ["unsent"])
        await asyncio.sleep(0)
        await client.close()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [ClientClosedError] * 12
        assert job_keys(bench) == []
        with pytest.raises(ClientClosedError):
            await client.embed(["again"])

    run(bench, use)


def test_without_a_name_or_a_model_every_caller_is_told(bench):
    async def whole():
        async with AsyncEmbeddingClient(bench.redis_url, namespace=bench.namespace) as client:
            return await asyncio.gather(*called(client, "abcdef"), return_exceptions=True)

    errors = asyncio.run(whole())
    assert [type(error) for error in errors] == [UnknownModelError] * 6
    assert len({id(error) for error in errors}) == 6


def test_a_redis_that_is_away_is_said_to_all_each_with_an_error_of_its_own(own_valkey, namespace, monkeypatch):
    monkeypatch.setitem(AsyncRedisTransport.run.__kwdefaults__, "outage_s", 0.5)
    own_valkey.kill()

    async def use():
        async with AsyncEmbeddingClient(own_valkey.url, "paper", namespace=namespace) as client:
            return await asyncio.gather(*called(client, map(str, range(500))), return_exceptions=True)

    errors = asyncio.run(use())
    assert [type(error) for error in errors] == [BrokerUnavailableError] * 500
    assert len({id(error) for error in errors}) == 500


FORKING = """
import asyncio, os, sys
import numpy as np
from embedmill import AsyncEmbeddingClient

client = AsyncEmbeddingClient(sys.argv[1], "paper", namespace=sys.argv[2])

async def use(side):
    return np.concatenate(await asyncio.gather(*(client.embed([f"{side} {n}"]) for n in range(30))))

loop = asyncio.new_event_loop()
before = loop.run_until_complete(use("before"))
pid = os.fork()
if pid == 0:
    loop = asyncio.new_event_loop()
mine = loop.run_until_complete(use("child" if pid == 0 else "parent"))
np.save(sys.argv[3] + ("/child.npy" if pid == 0 else "/parent.npy"), np.concatenate([before, mine]))
if pid == 0:
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
loop.run_until_complete(client.close())
loop.close()
"""


def test_both_sides_of_a_fork_may_gather(bench, tmp_path, expected):
    with bench.worker():
        command = [sys.executable, "-c", FORKING, bench.redis_url, bench.namespace, str(tmp_path)]
        subprocess.run(command, check=True, timeout=120)
    for side in ("parent", "child"):
        texts = [f"{which} {n}" for which in ("before", side) for n in range(30)]
        assert np.array_equal(np.load(tmp_path / f"{side}.npy"), expected(texts))


def test_calls_beyond_what_may_wait_in_a_client_are_refused_and_those_that_block_wait(bench, expected, monkeypatch):
    monkeypatch.setattr("embedmill.jobs.coalescing.MAX_JOB_TEXTS", 3)

    async def use(client):
        first = called(client, "ab")  # in flight
        await until_stored(bench, 2)
        waiting = called(client, "cde")
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="this client is full: 3 of 3 texts are taken"):
            await client.embed(["f"])
        patient = called(client, "fg", block=True)
        await asyncio.sleep(0)
        with bench.worker():
            return await asyncio.gather(*first, *waiting, *patient)

    assert np.array_equal(np.concatenate(run(bench, use)), expected("abcdefg"))


def test_a_jobs_id_begins_with_the_label_of_its_oldest_call_however_large_it_is(bench, monkeypatch):
    ids, submit = [], submission.submit

    def noted(keys, request, *rest, **block):
        ids.append(request.job_id)
        return submit(keys, request, *rest, **block)

    monkeypatch.setattr(submission, "submit", noted)
    kind = BatchKey(model="paper", lane="interactive", options=EmbedOptions())

    async def use(client):
        calls = [(["small"], "okapi:1"), (["small"], "okapi:2"), (LARGE * 40, "okapi:3"), (["small"], "")]
        embed = client.coalescer.embed
        await asyncio.gather(*(embed(texts, kind, 30.0, label=label) for texts, label in calls))

    with bench.worker():
        run(bench, use)
    labels = {job_id.rpartition("-")[0] for job_id in ids}
    assert "okapi-1" in labels and "okapi-3" in labels and labels <= {"okapi-1", "okapi-2", "okapi-3", ""}
