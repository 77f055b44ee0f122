"""Jobs over HTTP, as httpx and curl use them: submit, follow, fetch, cancel, list."""

import io
import json
import tempfile
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from embedmill import EmbeddingClient
from support.gateway import start as start_gateway
from support.waiting import wait_until

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["Selamat pagi", "good morning", "A queue keeps what nobody has answered yet."]
LONG = "word " * 1_000
FIRST, SECOND, THIRD = "zebra-0123456789abcdef", "yak-0123456789abcdefgh", "xerus-0123456789abcdef"

#: Seconds; generous, so that a busy machine fails no test.
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def gateway(mill):
    """A gateway with keys."""
    with tempfile.TemporaryDirectory() as folder:
        keys = f"{FIRST} name=first,{SECOND} name=first.x,{THIRD} name=third tokens_per_minute=10"
        found = start_gateway(mill.env, Path(folder), EMBEDMILL_API_KEYS=keys)
        yield found
        assert found.stop() == 0, found.log
        assert "Traceback" not in found.log


def client_of(gateway, secret=FIRST):
    return httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {secret}"}, timeout=PATIENCE_S)


@pytest.fixture
def client(gateway):
    with client_of(gateway) as found:
        yield found


@pytest.fixture(scope="module")
def queue(mill):
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace, timeout_s=PATIENCE_S) as found:
        yield found


def finished(client, job):
    """The job once it is over."""
    shown = {}

    def is_over():
        shown.update(client.get(job["links"]["self"]).json())
        return shown["status"] not in ("queued", "running")

    wait_until(is_over)
    return shown


def test_a_tour(client, queue):
    answer = client.post("/v1/jobs", json={"input": TEXTS, "model": MODEL, "dimensions": 64})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert job["status"] in ("queued", "running", "completed")
    done = finished(client, job)
    assert done["texts"] == {"total": 3, "done": 3, "failed": 0}
    assert (done["object"], done["status"], done["model"], done["lane"]) == ("job", "completed", MODEL, "bulk")
    assert done["expires_at"] - done["created_at"] == pytest.approx(86_400, abs=60)
    wanted = queue.embed(TEXTS, dimensions=64)

    found = client.get(job["links"]["result"]).json()
    assert np.array_equal(np.array([row["embedding"] for row in found["data"]], np.float32), wanted)
    assert [row["index"] for row in found["data"]] == [0, 1, 2]
    assert found["rejected"] == [] and found["model"] == MODEL and found["usage"]["total_tokens"] > 3

    raw = client.get(job["links"]["result"], headers={"accept": "application/octet-stream"})
    assert raw.headers["content-type"] == "application/octet-stream"
    assert (raw.headers["x-embedmill-count"], raw.headers["x-embedmill-dimensions"]) == ("3", "64")
    assert raw.headers["x-embedmill-dtype"] == "float32"
    assert raw.content == wanted.astype("<f4").tobytes()

    arrow = client.get(job["links"]["result"], headers={"accept": "application/vnd.apache.arrow.stream"})
    table = pa.ipc.open_stream(io.BytesIO(arrow.content)).read_all()
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), wanted)
    assert table["reason"].null_count == 3


def events_of(lines):
    """Yield (event, id, data) of server-sent events."""
    fields = {}
    for line in lines:
        if not line:
            if "event" in fields:
                yield fields["event"], int(fields["id"]), json.loads(fields["data"])
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def test_events_come_until_the_job_is_over(client):
    job = client.post("/v1/jobs", json={"input": [LONG] * 100}).json()
    headers = {"last-event-id": "no such, \\u0000"}
    with client.stream("GET", job["links"]["events"], headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = list(events_of(answer.iter_lines()))
    assert [name for name, _, _ in found] == ["progress"] * (len(found) - 1) + ["done"]
    assert len(found) > 2
    numbers = [number for _, number, _ in found]
    assert numbers == sorted(numbers) and numbers[-1] == 100
    assert found[-1][2]["status"] == "completed"
    assert found[-1][2] == client.get(job["links"]["self"]).json()
    with client.stream("GET", job["links"]["events"]) as answer:  # of a job that is over
        assert [name for name, _, _ in events_of(answer.iter_lines())] == ["done"]


def test_a_job_is_cancelled_and_has_no_result(client):
    job = client.post("/v1/jobs", json={"input": [LONG] * 2_000}).json()
    too_early = client.get(job["links"]["result"])
    assert (too_early.status_code, too_early.headers["retry-after"]) == (409, "1")
    cancelled = client.delete(job["links"]["self"])
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert client.delete(job["links"]["self"]).json()["status"] == "cancelled"
    assert client.get(job["links"]["result"]).status_code == 404
    with client.stream("GET", job["links"]["events"]) as answer:
        assert [name for name, _, _ in events_of(answer.iter_lines())] == ["done"]


def test_the_same_request_again_is_the_same_job_and_another_one_is_refused(client):
    body, key = {"input": TEXTS, "model": MODEL}, {"idempotency-key": "Order-7_b.c"}
    first = client.post("/v1/jobs", json=body, headers=key)
    again = client.post("/v1/jobs", content=json.dumps(body, indent=3), headers=key)
    by_id = client.post("/v1/jobs", json={**body, "id": "Order-7_b.c"})
    assert first.status_code == again.status_code == by_id.status_code == 202
    assert first.json()["id"] == again.json()["id"] == by_id.json()["id"] == "Order-7_b.c"
    assert first.json()["created_at"] == again.json()["created_at"]
    for other in ({"input": TEXTS[:2]}, {"dimensions": 8}, {"lane": "interactive"}, {"ttl_s": 60}, {"dtype": "int8"}):
        refused = client.post("/v1/jobs", json={**body, **other}, headers=key)
        assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false"), other
        assert not any(text in refused.text for text in TEXTS)
    assert client.post("/v1/jobs", json={**body, "id": "other"}, headers=key).status_code == 400


def test_a_job_is_its_keys_own(gateway, client):
    body = {"input": TEXTS, "id": "mine"}
    assert client.post("/v1/jobs", json=body).status_code == 202
    with client_of(gateway, SECOND) as other:
        for path in ("", "/result", "/events"):
            assert other.get(f"/v1/jobs/mine{path}").status_code == 404
        assert other.delete("/v1/jobs/mine").status_code == 404
        assert other.get("/v1/jobs", params={"after": "mine"}).status_code == 400
        assert other.get("/v1/jobs").json()["data"] == []
        assert other.post("/v1/jobs", json={**body, "input": ["another"]}).status_code == 202  # its own `mine`
        assert other.get("/v1/jobs/mine").json()["texts"]["total"] == 1
        for guess in ("x.mine", ".x.mine", "gw-mine", "x-mine"):
            assert other.get(f"/v1/jobs/{guess}").status_code == 404
    assert client.get("/v1/jobs/mine").json()["texts"]["total"] == 3
    with httpx.Client(base_url=gateway.url) as nobody:
        assert nobody.get("/v1/jobs/mine").status_code == nobody.get("/v1/jobs").status_code == 401


def test_a_list_has_pages_the_newest_first(gateway):
    with client_of(gateway, SECOND) as client:
        made = [client.post("/v1/jobs", json={"input": ["page"], "id": f"page-{i}"}).json()["id"] for i in range(5)]
        first = client.get("/v1/jobs", params={"limit": 2}).json()
        assert [job["id"] for job in first["data"]] == made[:-3:-1]
        assert (first["object"], first["first_id"], first["last_id"]) == ("list", "page-4", "page-3")
        assert first["has_more"] is True
        second = client.get("/v1/jobs", params={"limit": 2, "after": "page-3"}).json()
        assert [job["id"] for job in second["data"]] == ["page-2", "page-1"]
        rest = client.get("/v1/jobs", params={"after": "page-1"}).json()
        assert rest["data"][0]["id"] == "page-0"
        last = client.get("/v1/jobs", params={"after": rest["last_id"]}).json()
        assert last == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
        wrong = ("0", "-1", "101", "9" * 400, "zebra", "1.5", "²", "1e2")
        assert {client.get("/v1/jobs", params={"limit": limit}).status_code for limit in wrong} == {400}


def test_texts_without_a_vector_are_told_by_index_and_reason(client):
    body = {"input": [TEXTS[0], LONG, TEXTS[1]], "truncate": False}
    job = finished(client, client.post("/v1/jobs", json=body).json())
    assert (job["status"], job["texts"]) == ("completed", {"total": 3, "done": 3, "failed": 1})
    found = client.get(job["links"]["result"])
    assert [row["index"] for row in found.json()["data"]] == [0, 2]
    (rejected,) = found.json()["rejected"]
    assert (rejected["index"], rejected["reason"]) == (1, "too_long") and rejected["detail"]
    assert "word" not in found.text
    raw = client.get(job["links"]["result"], headers={"accept": "application/octet-stream"})
    assert raw.headers["x-embedmill-rejected"] == "1:too_long"
    rows = np.frombuffer(raw.content, "<f4").reshape(3, -1)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False]
    arrow = client.get(job["links"]["result"], headers={"accept": "application/vnd.apache.arrow.stream"})
    table = pa.ipc.open_stream(io.BytesIO(arrow.content)).read_all().to_pylist()
    assert [row["embedding"] is None for row in table] == [False, True, False]
    assert [row["reason"] for row in table] == [None, "too_long", None]
    job = finished(client, client.post("/v1/jobs", json={**body, "input": [LONG]}).json())
    assert (job["status"], job["texts"]["failed"]) == ("failed", 1)


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
def test_every_dtype_in_every_form(client, queue, dtype):
    job = finished(client, client.post("/v1/jobs", json={"input": TEXTS, "dtype": dtype}).json())
    wanted = queue.embed(TEXTS, dtype=dtype)
    found = client.get(job["links"]["result"]).json()
    assert np.array_equal(np.array([row["embedding"] for row in found["data"]]).astype(wanted.dtype), wanted)
    raw = client.get(job["links"]["result"], headers={"accept": "application/octet-stream"})
    assert raw.content == wanted.tobytes()
    assert (raw.headers["x-embedmill-dtype"], raw.headers["x-embedmill-dimensions"]) == (dtype, "384")
    arrow = client.get(job["links"]["result"], headers={"accept": "application/vnd.apache.arrow.stream"})
    table = pa.ipc.open_stream(io.BytesIO(arrow.content)).read_all()
    assert np.array_equal(np.array(table["embedding"].to_pylist(), wanted.dtype), wanted)
