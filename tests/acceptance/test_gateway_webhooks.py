"""Webhooks of a gateway's jobs, taken by a real receiver with the Standard Webhooks library."""

import base64
import itertools
import signal
import time

import httpx
import pytest
import redis

from embedmill.protocol.keys import Keyspace
from embedmill_worker.webhooks.outbox import LEASE_S
from support.gateway import start as start_gateway
from support.receiver import Receiver
from support.waiting import wait_until

SECRET = "whsec_" + base64.b64encode(b"zebra zebra zebra zebra zebra").decode()
OWN = "whsec_" + base64.b64encode(b"yak yak yak yak yak yak yak yak").decode()
TEXTS = ["Selamat pagi", "good morning"]
LONG = "word " * 1_000

#: Seconds; generous, so that a busy machine fails no test.
PATIENCE_S = 120.0

PAUSES = (0.2, 0.6, 1.2)
LOOPBACK = {
    "EMBEDMILL_WEBHOOK_ALLOW": "127.0.0.0/8",
    "EMBEDMILL_WEBHOOK_RETRY_S": ",".join(map(str, PAUSES)),
    "EMBEDMILL_WEBHOOK_SECRET": OWN,
}


@pytest.fixture(scope="module")
def reporter(module_mill, tmp_path_factory):
    """A gateway that may send to loopback, with an outbox of its own."""
    found = start_gateway(module_mill.env, tmp_path_factory.mktemp("gateway"), **LOOPBACK)
    yield found
    assert found.stop() == 0, found.log
    for hidden in ("Traceback", SECRET, OWN, "zebra", "/hook", *TEXTS):
        assert hidden not in found.log


def submit(gateway, receiver, texts=TEXTS, **body):
    webhook = {"url": receiver.url, "secret": SECRET}
    answer = httpx.post(f"{gateway.url}/v1/jobs", json={"input": texts, "webhook": webhook} | body, timeout=PATIENCE_S)
    assert answer.status_code == 202, answer.text
    return answer.json()


def show(gateway, job):
    return httpx.get(f"{gateway.url}/v1/jobs/{job['id']}", timeout=PATIENCE_S).json()


def settled(gateway, job):
    """The job once its webhook is delivered or given up."""
    return wait_until(lambda: (found := show(gateway, job))["webhook"]["status"] != "pending" and found)


def test_the_end_of_a_job_is_reported_and_the_library_verifies_it(reporter):
    with Receiver() as receiver:
        job = submit(reporter, receiver)
        done = settled(reporter, job)
    (delivery,) = receiver.deliveries
    event = delivery.verified(SECRET)
    assert event["type"] == "job.completed" and event["timestamp"].endswith("Z")
    assert event["data"] == {name: value for name, value in done.items() if name != "webhook"}
    assert event["data"]["id"] == job["id"] and event["data"]["texts"] == {"total": 2, "done": 2, "failed": 0}
    headers = {name.lower(): value for name, value in delivery.headers.items()}
    assert headers["content-type"] == "application/json" and headers["user-agent"].startswith("embedmill/")
    assert not any(text.encode() in delivery.body for text in TEXTS)
    assert done["webhook"] == {"status": "delivered", "attempts": 1}


def test_a_job_without_a_secret_is_signed_with_the_gateways(reporter):
    with Receiver() as receiver:
        settled(reporter, submit(reporter, receiver, webhook={"url": receiver.url}))
    assert receiver.deliveries[0].verified(OWN)["type"] == "job.completed"


def test_failure_and_cancellation_are_reported(reporter):
    with Receiver() as receiver:
        failed = settled(reporter, submit(reporter, receiver, [LONG], truncate=False))
        job = submit(reporter, receiver, [LONG] * 2_000)
        assert httpx.delete(f"{reporter.url}/v1/jobs/{job['id']}", timeout=PATIENCE_S).json()["status"] == "cancelled"
        settled(reporter, job)
    first, second = (delivery.verified(SECRET) for delivery in receiver.deliveries)
    assert (first["type"], first["data"]["id"], first["data"]["texts"]["failed"]) == ("job.failed", failed["id"], 1)
    assert (second["type"], second["data"]["id"]) == ("job.cancelled", job["id"])
    assert first["data"]["status"] == "failed" and second["data"]["status"] == "cancelled"


def pauses_of(receiver):
    times = [delivery.at_s for delivery in receiver.deliveries]
    return [after - before for before, after in itertools.pairwise(times)]


def test_a_receiver_that_fails_is_asked_again_after_pauses_that_grow(reporter):
    with Receiver(500, 503, 302) as receiver:
        receiver.location = "http://127.0.0.1:1/"
        done = settled(reporter, submit(reporter, receiver))
    assert done["webhook"] == {"status": "delivered", "attempts": 4}
    for pause_s, least_s in zip(pauses_of(receiver), PAUSES, strict=False):
        assert pause_s >= least_s
    assert len({delivery.headers["webhook-id"] for delivery in receiver.deliveries}) == 1
    assert len({delivery.body for delivery in receiver.deliveries}) == 1
    assert all(delivery.verified(SECRET) for delivery in receiver.deliveries)


@pytest.mark.deep
def test_a_receiver_that_never_takes_it_or_wants_no_more_is_given_up(reporter):
    with Receiver(*[500] * 20) as receiver, Receiver(410) as gone:
        jobs = [submit(reporter, receiver), submit(reporter, gone)]
        found = [settled(reporter, job)["webhook"] for job in jobs]
    assert found == [{"status": "failed", "attempts": len(PAUSES) + 1}, {"status": "failed", "attempts": 1}]
    assert "is given up" in reporter.log


def test_a_job_of_which_redis_forgets_the_result_at_once_is_reported_as_failed(reporter):
    with Receiver() as receiver:
        settled(reporter, submit(reporter, receiver, ttl_s=1))
    assert receiver.deliveries[0].verified(SECRET)["type"] in ("job.completed", "job.failed")


@pytest.mark.deep
def test_the_retry_outlives_a_gateway_that_is_killed(own_mill, tmp_path):
    own_mill.start_worker(EMBEDMILL_CONCURRENCY="1")
    env = {**own_mill.env, **LOOPBACK, "EMBEDMILL_WEBHOOK_RETRY_S": "3,4,5"}
    first = start_gateway(env, tmp_path)
    with Receiver(500) as receiver:
        job = submit(first, receiver)
        wait_until(lambda: receiver.deliveries and show(first, job)["webhook"]["attempts"] == 1)
        first.process.kill()
        first.process.wait(PATIENCE_S)
        second = start_gateway(env, tmp_path)
        try:
            done = settled(second, job)
            assert done["webhook"] == {"status": "delivered", "attempts": 2}
        finally:
            second.stop()
    assert len(receiver.deliveries) == 2 and pauses_of(receiver)[0] >= 3
    assert len({delivery.headers["webhook-id"] for delivery in receiver.deliveries}) == 1


def test_what_is_not_public_is_refused_by_literal_and_by_name(gateway):
    with Receiver() as receiver:
        for host in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1", "0x7f000001", "169.254.169.254", "10.0.0.1"):
            webhook = {"url": f"http://{host}:{receiver.port}/hook", "secret": SECRET}
            answer = httpx.post(f"{gateway.url}/v1/jobs", json={"input": TEXTS, "webhook": webhook}, timeout=PATIENCE_S)
            assert answer.status_code == 400 and answer.json()["error"]["param"] == "webhook.url", host
        job = submit(gateway, receiver, webhook={"url": f"http://localhost:{receiver.port}/hook", "secret": SECRET})
        assert wait_until(lambda: show(gateway, job)["webhook"]["attempts"]) == 1
        assert show(gateway, job)["status"] == "completed"
        assert receiver.deliveries == []
    assert "refused: the host has an address that is not public" in gateway.log
    assert "localhost" not in gateway.log


@pytest.mark.parametrize(
    "webhook",
    [
        *({"url": "https://example.com/"}, {"url": "https://example.com/", "secret": ""}, {"secret": SECRET}),
        *({"url": "https://example.com/", "secret": "zebra"}, {"url": "https://example.com/", "secret": "whsec_AAAA"}),
        *({"url": "https://example.com/", "secret": f"whsec_{'A' * 10_000}"}, {"url": 7, "secret": SECRET}),
        *({"url": "ftp://example.com/", "secret": SECRET}, {"url": "https://zebra@example.com/", "secret": SECRET}),
        *({"url": "https://example.com:25/", "secret": SECRET}, {"url": "zebra", "secret": SECRET}, "zebra", []),
        {"url": "https://example.com/\r\nx: y", "secret": SECRET},
    ],
)
def test_webhooks_that_cannot_work_are_refused_before_anything_is_stored(gateway, webhook):
    body = {"input": TEXTS, "webhook": webhook, "id": "never"}
    answer = httpx.post(f"{gateway.url}/v1/jobs", json=body, timeout=PATIENCE_S)
    assert answer.status_code == 400, answer.text
    assert "zebra" not in answer.text and "AAAA" not in answer.text
    assert httpx.get(f"{gateway.url}/v1/jobs/never", timeout=PATIENCE_S).status_code == 404


def test_the_secret_is_shown_by_no_route(reporter):
    with Receiver() as receiver:
        job = submit(reporter, receiver, id="hidden")
        settled(reporter, job)
        for path in ("/v1/jobs/hidden", "/v1/jobs", "/v1/jobs/hidden/result", "/v1/jobs/hidden/events", "/metrics"):
            text = httpx.get(reporter.url + path, timeout=PATIENCE_S).text
            assert SECRET not in text and OWN not in text and "/hook" not in text
    assert SECRET.encode() not in receiver.deliveries[0].body


def test_nothing_is_left_in_the_outbox_and_what_was_left_lives_for_a_time(reporter, module_mill):
    keys = Keyspace(module_mill.namespace)
    with Receiver() as receiver, redis.from_url(module_mill.redis_url) as server:
        job = submit(reporter, receiver, id="tidy")
        settled(reporter, job)
        members = [name for name in server.zrange(keys.outbox, 0, -1) if name.endswith(b"-tidy")]
        wait_until(lambda: not [name for name in server.zrange(keys.outbox, 0, -1) if name.endswith(b"-tidy")])
        assert len(members) < 2
        for key in server.scan_iter(f"{module_mill.namespace}:entr*"):
            assert 0 < server.ttl(key) <= 30 * 86_400, key


@pytest.mark.deep
def test_an_attempt_that_dies_with_its_gateway_comes_back(durable_mill, tmp_path):
    """The receiver holds the first attempt; gateway and Redis are killed; another gateway's attempt comes."""
    durable_mill.start_worker(EMBEDMILL_CONCURRENCY="1")
    env = {**durable_mill.env, **LOOPBACK}
    first = start_gateway(env, tmp_path)
    with Receiver() as receiver:
        receiver.answers.clear()
        job = submit(first, receiver)
        wait_until(lambda: receiver.deliveries)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(PATIENCE_S)
        receiver.answers.set()
        began_s = time.monotonic()
        second = start_gateway(env, tmp_path)
        try:
            done = settled(second, job)
            assert done["webhook"]["status"] == "delivered"
            assert time.monotonic() - began_s < LEASE_S + PATIENCE_S
        finally:
            second.stop()
    assert len({delivery.headers["webhook-id"] for delivery in receiver.deliveries}) == 1
    assert len(receiver.deliveries) == 2


@pytest.mark.deep
def test_retries_outlive_a_restart_of_redis(durable_mill, own_valkey, tmp_path):
    durable_mill.start_worker(EMBEDMILL_CONCURRENCY="1")
    gateway = start_gateway({**durable_mill.env, **LOOPBACK, "EMBEDMILL_WEBHOOK_RETRY_S": "3,4,5"}, tmp_path)
    try:
        with Receiver(500) as receiver:
            job = submit(gateway, receiver)
            wait_until(lambda: receiver.deliveries and show(gateway, job)["webhook"]["attempts"] == 1)
            time.sleep(1.5)  # Redis writes its file once a second
            own_valkey.kill()
            own_valkey.restart()
            wait_until(lambda: len(receiver.deliveries) == 2)
            assert settled(gateway, job)["webhook"] == {"status": "delivered", "attempts": 2}
    finally:
        gateway.stop()
