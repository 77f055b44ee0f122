"""The outbox on a real server: a job is claimed by one gateway, and comes back when its lease has passed."""

import pytest

from embedmill.protocol.keys import Keyspace
from embedmill.settings import ClientSettings
from embedmill.transport.flow import RoundTrip
from embedmill.transport.sync import RedisTransport
from embedmill_worker.webhooks import outbox
from support.waiting import wait_until


@pytest.fixture
def run(redis_url, namespace):
    transport = RedisTransport(ClientSettings.from_env(redis_url, namespace=namespace, environ={}))
    yield lambda flow: transport.run(flow, timeout_s=30.0)
    transport.close()


@pytest.fixture
def keys(namespace):
    return Keyspace(namespace)


def add(keys, **due_ms):
    yield RoundTrip([("ZADD", keys.outbox, due, job_id) for job_id, due in due_ms.items()])


def test_what_is_due_is_claimed_once_the_longest_waiting_first(run, keys):
    run(add(keys, b=2, a=1, c=3, later=4e12))
    assert run(outbox.claim(keys, 2)) == ["a", "b"]
    assert run(outbox.claim(keys, 9)) == ["c"]
    assert run(outbox.claim(keys, 9)) == []


def test_a_claim_whose_gateway_dies_comes_back(run, keys):
    run(add(keys, a=1))
    assert run(outbox.claim(keys, 1, lease_s=0.2)) == ["a"]
    assert wait_until(lambda: run(outbox.claim(keys, 1))) == ["a"]


def test_what_is_postponed_waits_and_what_is_removed_stays_away(run, keys):
    run(add(keys, a=1, b=1))
    run(outbox.postpone(keys, {"a": 0.2, "b": 1_000.0}))
    assert wait_until(lambda: run(outbox.claim(keys, 9))) == ["a"]
    run(outbox.remove(keys, "a"))
    run(outbox.postpone(keys, {"a": 0.0}))
    assert run(outbox.claim(keys, 9)) == []
