"""Jobs under hostile clients, dying gateways and several at a time. A gateway with keys has its own tests."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
from urllib.parse import quote

import httpx
import psutil
import pytest
import redis

from embedmill import EmbeddingClient
from embedmill.protocol.keys import Keyspace
from support.gateway import start as start_gateway
from support.waiting import join, wait_until

MODEL = "all-MiniLM-L6-v2"
LONG = "word " * 250

#: Seconds; generous, so that a busy machine fails no test.
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def target(mill, tmp_path_factory):
    found = start_gateway(mill.env, tmp_path_factory.mktemp("target"))
    yield found
    assert found.stop() == 0, found.log
    assert "Traceback" not in found.log and "gateway_failed" not in found.log and " failed: " not in found.log


@pytest.fixture
def client(target):
    with httpx.Client(base_url=target.url, timeout=PATIENCE_S) as found:
        yield found


def submit(client, texts, **body):
    answer = client.post("/v1/jobs", json={"input": texts} | body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def status_of(client, job):
    return client.get(f"/v1/jobs/{job['id']}").json()["status"]


IDS = ["", " ", ".a", "-a", "_a", "a b", "a/b", "a:b", "a\tb", "é", "a" * 101, "a" * 60_000, "../x", "*", "a%", "{}"]


@pytest.mark.parametrize("job_id", IDS, ids=[repr(each[:20]) for each in IDS])
def test_ids_with_odd_characters_are_refused(client, job_id):
    answer = client.post("/v1/jobs", json={"input": ["zebra"], "id": job_id})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "id")
    with contextlib.suppress(httpx.LocalProtocolError, UnicodeEncodeError):
        answer = client.post("/v1/jobs", json={"input": ["zebra"]}, headers={"idempotency-key": job_id})
        assert answer.status_code in (400, 431), answer.text
        assert "zebra" not in answer.text
    if "/" not in job_id and job_id.strip():
        assert client.get(f"/v1/jobs/{quote(job_id)[:2_000]}").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"input": []}, {"input": ""}, {"input": [""]}, {"input": [1.5]}, {"input": {"a": 1}}, {"input": None}),
        *({"input": ["a"], "dtype": "zebra"}, {"input": ["a"], "dimensions": 0}, {"input": ["a"], "dimensions": 10**9}),
        *({"input": ["a"], "lane": "zebra"}, {"input": ["a"], "ttl_s": 0}, {"input": ["a"], "ttl_s": 10**12}),
        *({"input": ["a"], "ttl_s": -1}, {"input": ["a"], "id": 7}, {"input": ["a"], "input_type": "zebra"}),
        *({"input": ["a"], "dtype": "binary", "dimensions": 7}, {"input": ["a"], "dimensions": 385}),
    ],
)
def test_bodies_that_cannot_be_served(client, body):
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error" and "zebra" not in answer.text


def test_an_unknown_model_and_too_many_texts(client):
    assert client.post("/v1/jobs", json={"input": ["a"], "model": "zebra"}).status_code == 404
    answer = client.post("/v1/jobs", json={"input": ["a"] * 65_537})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")


ACCEPTED = {
    **{"": "json", "*/*": "json", "application/*": "json", "APPLICATION/JSON": "json", "a,,;;,*/*;q=0.1": "json"},
    "application/octet-stream;q=0.5, application/json;q=0.9": "json",
    "application/json;q=0, */*": "octet-stream",
    "application/octet-stream, application/json": "octet-stream",
    "application/vnd.apache.arrow.stream;q=1, */*;q=0.5": "vnd.apache.arrow.stream",
    **{"text/html": None, "application/json;q=0": None, "*/*;q=0": None, "application/json;q=zebra": None},
    **{",": None, ";": None, "q=1": None, "json": None, "application/json;q=nan": None, "x," * 9_000: None},
    "*/*;q=-1": None,
}


def test_accept_decides_the_form_or_refuses(client):
    job = submit(client, ["a"])
    wait_until(lambda: status_of(client, job) == "completed")
    for accept, form in ACCEPTED.items():
        answer = client.get(job["links"]["result"], headers={"accept": accept})
        if form is None:
            assert answer.status_code == 406, accept[:40]
        else:
            assert answer.headers["content-type"] == f"application/{form}", accept


def test_methods_and_paths_that_are_not_there(client):
    job = submit(client, ["a"])
    for method in ("PUT", "PATCH", "POST"):
        assert client.request(method, job["links"]["self"]).status_code == 405
    assert client.request("DELETE", "/v1/jobs").status_code == 405
    assert client.request("HEAD", job["links"]["events"]).status_code == 405
    for path in ("nobody", "nobody/events", "nobody/result", "%00", "a%2Fb", "..%2f..", "%ff", "a" * 500):
        assert client.get(f"/v1/jobs/{path}").status_code == 404, path
    assert client.delete("/v1/jobs/nobody").status_code == 404


def test_a_deleted_job_is_expired_and_the_same_request_submits_it_again(client, mill):
    job = submit(client, ["a"], id="again")
    wait_until(lambda: status_of(client, job) == "completed")
    with redis.from_url(mill.redis_url) as server:
        (name,) = server.scan_iter(Keyspace(mill.namespace).job("gw-*-again"))
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as queue:
        assert queue.job(name.decode().rpartition(":")[2]).delete()
    assert status_of(client, job) == "expired"
    assert client.get(job["links"]["result"]).status_code == 404
    assert "again" in [each["id"] for each in client.get("/v1/jobs").json()["data"]]
    submit(client, ["a"], id="again")
    wait_until(lambda: status_of(client, job) == "completed")
    assert client.get(job["links"]["result"]).status_code == 200


def test_many_at_once_under_one_id_are_one_job(target):
    answers = []

    def post(body):
        answers.append((body["input"][0], httpx.post(f"{target.url}/v1/jobs", json=body, timeout=PATIENCE_S)))

    bodies = [{"input": [f"race {i % 2}"], "id": "race"} for i in range(12)]
    threads = [threading.Thread(target=post, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    won = {text for text, answer in answers if answer.status_code == 202}
    assert len(won) == 1
    assert {answer.status_code for text, answer in answers if text not in won} == {409}
    assert len([1 for text, answer in answers if text in won]) == 6


def test_two_gateways_answer_for_each_others_jobs(client, make_gateway, mill):
    other = make_gateway(mill.env)
    job = submit(client, [LONG] * 30, id="shared")
    with httpx.Client(base_url=other.url, timeout=PATIENCE_S) as second:
        with second.stream("GET", job["links"]["events"]) as answer:
            assert answer.read().count(b"event: done") == 1
        assert second.get(job["links"]["self"]).json() == client.get(job["links"]["self"]).json()
        one, two = (each.get(job["links"]["result"]).content for each in (client, second))
        assert one == two
        assert submit(second, [LONG] * 30, id="shared")["created_at"] == job["created_at"]
        assert second.post("/v1/jobs", json={"input": ["b"], "id": "shared"}).status_code == 409
        late = submit(second, [LONG] * 2_000)
        assert client.delete(late["links"]["self"]).json()["status"] == "cancelled"
        assert status_of(second, late) == "cancelled"


def test_a_gateway_killed_in_the_middle_of_events_leaves_the_job_to_another(client, make_gateway, mill):
    victim = make_gateway(mill.env)
    with httpx.Client(base_url=victim.url, timeout=PATIENCE_S) as second:
        job = submit(second, [LONG] * 60)
        with pytest.raises(httpx.RemoteProtocolError), second.stream("GET", job["links"]["events"]) as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    assert line == "event: progress"
                    victim.process.kill()
    with client.stream("GET", job["links"]["events"], headers={"last-event-id": "17"}) as answer:
        events = [line for line in answer.iter_lines() if line.startswith("event: ")]
    assert events[-1] == "event: done"
    assert status_of(client, job) == "completed"


def test_a_gateway_that_ends_closes_its_events_at_once(client, make_gateway, mill):
    ending = make_gateway(mill.env)
    with httpx.Client(base_url=ending.url, timeout=PATIENCE_S) as second:
        job = submit(second, [LONG] * 5_000)
        with second.stream("GET", job["links"]["events"]) as answer:
            lines = answer.iter_lines()
            wait_until(lambda: next(lines).startswith("event: progress"))
            ending.process.terminate()
            assert not [line for line in lines if line == "event: done"]
        assert ending.process.wait(PATIENCE_S) == 0
    client.delete(job["links"]["self"])  # or the workers of all tests have minutes of work
    assert "Traceback" not in ending.log and "without completing" not in ending.log


def raw_get(target, path):
    connection = socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE_S)
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    return connection


def test_followers_that_hang_up_free_their_places(target, client):
    """More clients than may follow at a time, in turns: each hangs up without a word."""
    job = submit(client, [LONG] * 10_000)
    try:
        for _ in range(6):
            followers = [raw_get(target, job["links"]["events"]) for _ in range(100)]
            statuses = {follower.recv(12) for follower in followers}
            for follower in followers:
                follower.close()
            assert b"HTTP/1.1 200" in statuses  # on a busy machine some are 503; none is 429
            assert statuses <= {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        wait_until(lambda: len(psutil.Process(target.process.pid).net_connections()) < 60)
        with client.stream("GET", job["links"]["events"]) as answer:
            assert answer.status_code == 200
    finally:
        assert client.delete(job["links"]["self"]).json()["status"] == "cancelled"


@pytest.mark.deep
def test_more_followers_than_there_are_places_are_refused(target, client):
    job = submit(client, [LONG] * 10_000)
    followers, statuses = [], []
    try:
        while b"HTTP/1.1 429" not in statuses:  # a busy machine may answer some with 503: they take no place
            followers.append(raw_get(target, job["links"]["events"]))
            statuses.append(followers[-1].recv(12))
            assert len(statuses) < 2_000
        assert statuses.count(b"HTTP/1.1 200") == 512
        for follower in followers:
            follower.close()

        def is_let_in():
            with raw_get(target, job["links"]["events"]) as follower:
                return follower.recv(12) == b"HTTP/1.1 200"

        wait_until(is_let_in)
    finally:
        for follower in followers:
            follower.close()
        client.delete(job["links"]["self"])


@pytest.mark.deep
def test_readers_of_results_that_hang_up_free_their_places(target, client):
    job = submit(client, [f"text {i}" for i in range(2_000)])
    wait_until(lambda: status_of(client, job) == "completed")
    for _ in range(20):
        reader = raw_get(target, job["links"]["result"])
        reader.recv(100)
        reader.close()
    assert len(client.get(job["links"]["result"]).json()["data"]) == 2_000


@pytest.mark.deep
def test_no_answer_is_other_than_the_document_says_of_jobs(target, tmp_path):
    command = ["schemathesis.cli", "run", f"{target.url}/openapi.json", "--seed", "1", "--no-color"]
    command += ["--include-path-regex", "^/v1/jobs", "--max-examples", "12", "--continue-on-failure"]
    checks = ["not_a_server_error", "status_code_conformance", "content_type_conformance"]
    checks += ["response_schema_conformance", "unsupported_method"]
    command += ["--request-timeout", "60", "--checks", ",".join(checks)]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]


def test_a_tour_by_curl(target, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not there")

    def curl(*arguments):
        command = ["curl", "--silent", "--show-error", "--max-time", "100", *arguments]
        return subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE_S, cwd=tmp_path).stdout

    url = f"{target.url}/v1/jobs"
    made = json.loads(curl(url, "-H", "idempotency-key: curl-1", "-d", '{"input": ["Selamat pagi"]}'))
    assert made["id"] == "curl-1"
    events = curl("-N", f"{url}/curl-1/events").decode()
    assert "event: done\n" in events and events.startswith("retry: ")
    head = curl("-D", "-", "-o", "v.f32", f"{url}/curl-1/result", "-H", "accept: application/octet-stream").decode()
    assert "x-embedmill-dimensions: 384" in head and (tmp_path / "v.f32").stat().st_size == 4 * 384
    assert json.loads(curl(f"{url}?limit=1"))["object"] == "list"
    assert json.loads(curl("-X", "DELETE", f"{url}/curl-1"))["status"] == "completed"


def test_what_is_kept_of_jobs_lives_for_a_time(client, mill):
    job = submit(client, ["a"])
    wait_until(lambda: status_of(client, job) == "completed")
    keys = Keyspace(mill.namespace)
    with redis.from_url(mill.redis_url) as server:
        wait_until(lambda: not [name for name in server.zrange(keys.outbox, 0, -1) if job["id"].encode() in name])
        for key in server.scan_iter(f"{mill.namespace}:entr*"):
            assert 0 < server.ttl(key) <= 30 * 86_400
