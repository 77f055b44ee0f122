"""Who may use the gateway and how much of it; what it says when Redis or the workers are away; what logs hold."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import trustme

from embedmill.protocol.keys import Keyspace
from embedmill_worker.cli.local.die_with_parent import tethered
from support.servers import free_port, plain_redis
from support.waiting import wait_until

#: With the tours of test_gateway_clients.py in `make test`, minutes of further processes can wait for `make deep`.
pytestmark = pytest.mark.deep

#: Seconds that one request may take here; far more than any does.
LIMIT_S = 60.0

#: Seconds in which an outage must be told; Redis is tried again for five.
OUTAGE_LIMIT_S = 30.0

FIRST, SECOND, BULK = "zebra-first-0123456789", "zebra-second-0123456789", "zebra-bulk-0123456789"
KEYS = f"{FIRST} name=first,{SECOND} name=second tokens_per_minute=40,{BULK} name=bulk lane=bulk"


def embed(gateway, text="Selamat pagi", key=None, **headers) -> httpx.Response:
    if key:
        headers["authorization"] = f"Bearer {key}"
    return httpx.post(f"{gateway.url}/v1/embeddings", json={"input": text}, headers=headers, timeout=LIMIT_S)


def error_of(reply: httpx.Response) -> dict:
    return reply.json()["error"]


@pytest.fixture
def keyed(mill, make_gateway):
    return make_gateway(mill.env, EMBEDMILL_API_KEYS=KEYS)


def test_keys_say_who_may_embed_and_in_which_lane(mill, make_gateway, keyed, tmp_path):
    for key in (None, "zebra-wrong-0123456789", FIRST[:-1], FIRST + "x", "é" * 20):
        reply = httpx.post(
            f"{keyed.url}/v1/embeddings",
            json={"input": "river"},
            headers={"authorization": f"Bearer {key}".encode()} if key else {},
            timeout=LIMIT_S,
        )
        assert reply.status_code == 401
        assert error_of(reply)["code"] == "invalid_api_key"
        assert "zebra" not in reply.text
    assert embed(keyed, key=FIRST).status_code == 200
    for name in ("x-api-key", "api-key"):
        assert embed(keyed, **{name: FIRST}).status_code == 200
    assert embed(keyed, key=BULK).status_code == 200
    assert embed(keyed, key=BULK, **{"x-embedmill-lane": "bulk"}).status_code == 200
    refused = embed(keyed, key=BULK, **{"x-embedmill-lane": "interactive"})
    assert (refused.status_code, error_of(refused)["param"]) == (403, "lane")
    page = httpx.get(f"{keyed.url}/metrics", headers={"x-api-key": FIRST}, timeout=LIMIT_S).text
    assert f'embedmill_texts_total{{lane="bulk",model="{model_of(keyed)}"}} 2.0' in page
    assert httpx.get(f"{keyed.url}/metrics", timeout=LIMIT_S).status_code == 401
    for path in ("/health", "/ping", "/openapi.json"):
        assert httpx.get(f"{keyed.url}{path}", timeout=LIMIT_S).status_code == 200, path
    with grpc.insecure_channel(keyed.grpc_address) as channel:
        call = channel.unary_unary("/embedding.EmbeddingService/GetEmbeddings")
        for metadata in ((), (("authorization", "Bearer zebra-wrong-0123456789"),)):
            with pytest.raises(grpc.RpcError) as caught:
                call(b"\x0a\x05river", metadata=metadata, timeout=LIMIT_S)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for metadata in ((("authorization", f"Bearer {FIRST}"),), (("x-api-key", FIRST),)):
            assert call(b"\x0a\x05river", metadata=metadata, timeout=LIMIT_S)


def model_of(gateway) -> str:
    headers = {"x-api-key": FIRST}
    return httpx.get(f"{gateway.url}/v1/models", headers=headers, timeout=LIMIT_S).json()["data"][0]["id"]


def test_a_limit_of_tokens_a_minute_holds_over_all_gateways(mill, make_gateway, keyed):
    other = make_gateway(mill.env, EMBEDMILL_API_KEYS=KEYS)
    text = "river " * 10  # about 15 tokens, of 40
    # A new minute may begin on the way: in two of them no more than eight requests fit.
    replies = [embed((keyed, other)[i % 2], text, SECOND) for i in range(12)]
    refused = [reply for reply in replies if reply.status_code != 200]
    assert refused, [reply.status_code for reply in replies]
    for reply in refused:
        assert (reply.status_code, error_of(reply)["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(reply.headers["retry-after"]) <= 61
        assert 0 < int(reply.headers["retry-after-ms"]) <= 60_000
        assert reply.headers["x-should-retry"] == "true"
    assert embed(keyed, text, FIRST).status_code == 200  # another key's limit is its own


def test_three_times_what_fits_is_refused_in_part_and_every_answer_is_bounded(mill, make_gateway):
    gateway = make_gateway(mill.env, "--max-wait", "1")
    texts = ["the river and the sea " * 20] * 16
    stop = threading.Event()

    def ask(_number: int) -> list[tuple[int, float, float]]:
        found = []
        with httpx.Client(timeout=LIMIT_S) as client:
            while not stop.is_set():
                began_s = time.monotonic()
                reply = client.post(f"{gateway.url}/v1/embeddings", json={"input": texts})
                found.append(
                    (reply.status_code, time.monotonic() - began_s, float(reply.headers.get("retry-after", 0)))
                )
        return found

    before = psutil.Process(gateway.process.pid).memory_full_info().uss
    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(ask, number) for number in range(24)]
        time.sleep(10)
        stop.set()
        answers = [answer for one in asked for answer in one.result(LIMIT_S)]
    statuses = {status for status, _, _ in answers}
    assert statuses == {200, 429}, statuses
    assert all(retry_s >= 1 for status, _, retry_s in answers if status == 429)
    # One second of work may wait, as it is estimated; a busy machine is many times slower, and not without bound.
    assert max(took_s for _, took_s, _ in answers) < 30
    assert psutil.Process(gateway.process.pid).memory_full_info().uss - before < 64 << 20


def test_a_client_that_hangs_up_cancels_its_queued_work(mill, make_mill, make_gateway):
    quiet = make_mill(mill.redis_url)
    quiet.env |= {"EMBEDMILL_NAMESPACE": quiet.namespace}
    worker = quiet.start_worker(EMBEDMILL_CONCURRENCY="1")
    gateway = make_gateway(quiet.env)
    keys = Keyspace(quiet.namespace)
    model = httpx.get(f"{gateway.url}/v1/models", timeout=LIMIT_S).json()["data"][0]["id"]
    for child in worker.children:  # it stays announced and serves nothing
        psutil.Process(child).suspend()
    psutil.Process(worker.pid).suspend()
    try:
        with plain_redis(mill.redis_url) as server:
            lane = keys.lane(model, "interactive")

            def waiting() -> int:
                return sum(int(value or 0) for value in server.hmget(lane, "chunks", "texts", "tokens", "open"))

            body = json.dumps({"input": ["river"] * 10}).encode()
            head = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=LIMIT_S) as client:
                client.sendall(head + body)
                wait_until(waiting, "the job did not reach Redis")
            wait_until(lambda: not waiting(), "the job is still there")
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=LIMIT_S) as client:
                client.sendall((head + body) * 2)  # without waiting for the first answer
                wait_until(waiting, "the job did not reach Redis")
            wait_until(lambda: not waiting(), "the job is still there")
            with grpc.insecure_channel(gateway.grpc_address) as channel:
                call = channel.unary_unary("/embedding.EmbeddingService/GetEmbeddings").future(b"\x0a\x05river")
                wait_until(waiting, "the job did not reach Redis")
                call.cancel()
            wait_until(lambda: not waiting(), "the job is still there")
            assert not server.keys(Keyspace(quiet.namespace).job("*"))
    finally:
        for process in (worker.pid, *worker.children):
            psutil.Process(process).resume()


def test_without_redis_it_says_503_and_comes_back(own_valkey, durable_mill, make_gateway):
    durable_mill.start_worker(EMBEDMILL_CONCURRENCY="1")
    gateway = make_gateway(durable_mill.env)
    assert embed(gateway).status_code == 200
    own_valkey.kill()
    for path in ("/v1/embeddings", "/api/embed", "/embed"):
        began_s = time.monotonic()
        body = {"input": "river", "inputs": "river", "model": model_name(gateway)}
        reply = httpx.post(f"{gateway.url}{path}", json=body, timeout=LIMIT_S)
        assert reply.status_code == 503, reply.text
        assert int(reply.headers["retry-after"]) >= 1
        assert "valkey" not in reply.text and "redis" not in reply.text.lower()
        assert time.monotonic() - began_s < OUTAGE_LIMIT_S
    wait_until(lambda: gateway.health == 503, "it does not notice")
    assert "embedmill_queue_up 0.0" in httpx.get(f"{gateway.url}/metrics", timeout=LIMIT_S).text
    own_valkey.restart()
    wait_until(lambda: gateway.health == 200, "it does not notice")
    wait_until(lambda: embed(gateway).status_code == 200, "it does not come back")


def model_name(gateway) -> str:
    return httpx.get(f"{gateway.url}/v1/models", timeout=LIMIT_S).json()["data"][0]["id"]


def test_without_a_worker_it_says_503(valkey, make_mill, make_gateway):
    gateway = make_gateway(make_mill(valkey.url).env, ready=False)
    assert gateway.health == 503
    reply = embed(gateway)
    assert (reply.status_code, error_of(reply)["code"]) == (503, "service_unavailable")
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/embedding.EmbeddingService/GetEmbeddings")(b"\x0a\x05river", timeout=LIMIT_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_web_pages_may_call_only_if_their_origin_is_named(mill, gateway, make_gateway):
    page = "https://app.example"
    preflight = {"origin": page, "access-control-request-method": "POST", "access-control-request-headers": "x-a"}
    refused = embed(gateway, origin=page)
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers
    assert httpx.options(f"{gateway.url}/v1/embeddings", headers=preflight, timeout=LIMIT_S).status_code == 405
    assert embed(gateway, origin="null").status_code == 403
    assert embed(gateway, origin=gateway.url).status_code == 200  # its own address is no other page
    for host in ("rebound.example", "rebound.example:80", "127.0.0.1.rebound.example"):
        assert embed(gateway, host=host).status_code == 403
    open_one = make_gateway(mill.env, "--cors-origins", f"{page},https://other.example")
    assert embed(open_one, origin=page).headers["access-control-allow-origin"] == page
    assert embed(open_one, origin="https://evil.example").status_code == 403
    asked = httpx.options(f"{open_one.url}/v1/embeddings", headers=preflight, timeout=LIMIT_S)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, page)


def test_https_and_grpc_with_certificate_files(mill, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("localhost", "127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(cert), append=True)
    issued.private_key_pem.write_to_path(str(key))
    port, grpc_port = free_port(), free_port()
    words = [
        "serve",
        "--port",
        str(port),
        "--grpc-port",
        str(grpc_port),
        "--tls-cert",
        str(cert),
        "--tls-key",
        str(key),
    ]
    log = tmp_path / "gateway.log"
    with log.open("wb") as file:
        command = tethered([sys.executable, "-m", "embedmill_worker.cli", *words])
        process = subprocess.Popen(command, env=mill.env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        wait_until(lambda: "HTTP listens on https://" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        body = {"input": "river"}
        with httpx.Client(verify=trust, timeout=LIMIT_S, base_url=f"https://127.0.0.1:{port}") as client:
            wait_until(lambda: client.get("/health").status_code == 200)
            assert client.post("/v1/embeddings", json=body).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.post(f"https://127.0.0.1:{port}/v1/embeddings", json=body, timeout=LIMIT_S)
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"http://127.0.0.1:{port}/v1/embeddings", json=body, timeout=LIMIT_S)
        trusted = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
        with grpc.secure_channel(f"localhost:{grpc_port}", trusted) as channel:
            call = channel.unary_unary("/embedding.EmbeddingService/GetEmbeddings")
            assert call(b"\x0a\x05river", timeout=LIMIT_S)
    finally:
        process.terminate()
        assert process.wait(LIMIT_S) == 0


@pytest.mark.parametrize("broken", ["missing", "empty", "no certificate", "another's key"])
def test_certificates_that_cannot_be_used_end_the_start(mill, tmp_path, broken):
    authority = trustme.CA()
    issued, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    (other if broken == "another's key" else issued).private_key_pem.write_to_path(str(key))
    match broken:
        case "missing":
            cert.unlink()
        case "empty":
            cert.write_bytes(b"")
        case "no certificate":
            cert.write_bytes(os.urandom(1_000))
    done = serve_in_vain(mill.env, "--tls-cert", cert, "--tls-key", key)
    assert "--tls-cert" in done.stderr and "Traceback" not in done.stderr, done.stderr


def serve_in_vain(env, *words) -> subprocess.CompletedProcess:
    ports = ["--port", str(free_port()), "--grpc-port", str(free_port())]
    command = [sys.executable, "-m", "embedmill_worker.cli", "serve", *ports, *map(str, words)]
    done = subprocess.run(tethered(command), env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 3, done.stderr
    return done


def test_a_taken_port_ends_the_start(mill):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flag in ("--port", "--grpc-port"):
            done = serve_in_vain(mill.env, flag, port)
            assert flag in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_without_keys_it_serves_this_machine_alone(mill):
    assert "EMBEDMILL_API_KEYS" in serve_in_vain(mill.env, "--host", "0.0.0.0").stderr


TEXT, KEY = "a quagga by the brook", "quagga-key-0123456789"
LOGGED = {
    "EMBEDMILL_API_KEYS": f"{KEY} name=first",
    "EMBEDMILL_LOG_LEVEL": "DEBUG",
    "EMBEDMILL_REQUEST_TIMEOUT_S": "10",
}


def test_logs_hold_no_text_and_no_key_and_the_callers_id_up_to_the_workers(own_mill, make_gateway):
    worker = own_mill.start_worker(log_level="DEBUG", EMBEDMILL_CONCURRENCY="1")
    gateway = make_gateway(own_mill.env, **LOGGED)
    bodies = [
        ("/v1/embeddings", {"input": TEXT}, 200),
        ("/v1/embeddings", {"input": TEXT, "model": TEXT}, 404),
        ("/v1/embeddings", {"input": TEXT, "lane": TEXT}, 400),
        ("/v1/embeddings", {"input": [TEXT, 1]}, 400),
        ("/v1/embeddings", {"input": {TEXT: TEXT}}, 400),
        ("/v1/embeddings", {"input": f"{TEXT} " * 1_000, "truncate": False}, 400),
        ("/embed", {"inputs": f"{TEXT} " * 1_000, "truncate": False}, 422),
        ("/api/embed", {"input": TEXT, "model": TEXT}, 404),
        (f"/{TEXT}", {}, 404),
    ]
    for number, (path, body, status) in enumerate(bodies):
        headers = {"authorization": f"Bearer {KEY}", "x-request-id": f"okapi:{number}"}
        reply = httpx.post(f"{gateway.url}{path}", json=body, headers=headers, timeout=LIMIT_S)
        assert reply.status_code == status, reply.text
        assert path == f"/{TEXT}" or reply.headers["x-request-id"] == f"okapi:{number}"
    broken = httpx.post(f"{gateway.url}/embed", content=TEXT, headers={"x-api-key": KEY}, timeout=LIMIT_S)
    assert (broken.status_code, len(broken.headers["x-request-id"])) == (422, 32)
    httpx.post(f"{gateway.url}/embed", json={"inputs": TEXT}, headers={"x-api-key": KEY + "x"}, timeout=LIMIT_S)
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        call = channel.unary_unary("/embedding.EmbeddingService/GetEmbeddings")
        message = b"\x0a" + bytes([len(TEXT)]) + TEXT.encode()
        assert call(message, metadata=(("x-api-key", KEY), ("x-request-id", "okapi-grpc")), timeout=LIMIT_S)
        for data, key in ((message[:-1], KEY), (message, KEY + "x")):
            with pytest.raises(grpc.RpcError):
                call(data, metadata=(("x-api-key", key),), timeout=LIMIT_S)
    wait_until(lambda: "request okapi-grpc" in gateway.log, gateway.log)
    assert "request okapi:0: /v1/embeddings 200" in gateway.log
    assert "okapi:1" in gateway.log
    wait_until(lambda: "chunk okapi-grpc-" in worker.log, worker.log[-3_000:])
    assert "chunk okapi-0-" in worker.log and "is done: 1 texts" in worker.log
    worker.kill()
    late = httpx.post(f"{gateway.url}/embed", json={"inputs": TEXT}, headers={"x-api-key": KEY}, timeout=2 * LIMIT_S)
    assert late.status_code == 503
    gateway.stop()
    for word in ("quagga", "brook"):
        assert word not in gateway.log
        assert word not in worker.log


@pytest.mark.soak
def test_half_an_hour_of_mixed_traffic_leaves_memory_flat(mill, make_gateway):
    """Length in seconds: EMBEDMILL_TEST_SOAK_S."""
    length_s = float(os.environ.get("EMBEDMILL_TEST_SOAK_S", "1800"))
    gateway = make_gateway(mill.env, "--max-wait", "1", EMBEDMILL_API_KEYS=KEYS)
    process = psutil.Process(gateway.process.pid)
    stop = threading.Event()

    def ask(number: int) -> None:
        headers = {"x-api-key": (FIRST, SECOND, BULK, "wrong-0123456789abcdef")[number % 4]}
        with httpx.Client(base_url=gateway.url, timeout=LIMIT_S, headers=headers) as client:
            turn = number
            while not stop.is_set():
                turn += 1
                text = f"river {turn} " * (1 + turn % 50)
                path, body = (
                    ("/v1/embeddings", {"input": [text] * (1 + turn % 16)}),
                    ("/v1/embeddings", {"input": text, "encoding_format": "base64"}),
                    ("/embed", {"inputs": [text, text], "truncate": turn % 2 == 0}),
                    ("/api/embed", {"model": "none", "input": text}),
                    ("/v1/embeddings", {"input": [1, "mixed"]}),
                )[turn % 5]
                status = client.post(path, json=body).status_code
                assert status < 500 or status == 503  # the latter on a busy machine
                if turn % 7 == 0:
                    client.get("/metrics")
                if turn % 11 == 0:  # hang up
                    with socket.create_connection(("127.0.0.1", gateway.port), timeout=LIMIT_S) as raw:
                        raw.sendall(b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{")
                stop.wait(0.01)

    def call(number: int) -> None:
        with grpc.insecure_channel(gateway.grpc_address) as channel:
            speak = channel.unary_unary("/embedding.EmbeddingService/GetEmbeddings")
            while not stop.is_set():
                for data in (b"\x0a\x05river", b"", b"\xff"):
                    try:
                        speak(data, metadata=(("x-api-key", FIRST),), timeout=LIMIT_S)
                    except grpc.RpcError:
                        stop.wait(0.05)

    samples: list[tuple[float, int]] = []
    began_s = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        tasks = [
            *(pool.submit(ask, number) for number in range(8)),
            *(pool.submit(call, number) for number in range(2)),
        ]
        try:
            while time.monotonic() - began_s < length_s:
                stop.wait(5)
                samples.append((time.monotonic() - began_s, process.memory_full_info().uss))
                for task in tasks:
                    assert not task.done(), task.exception()
        finally:
            stop.set()
        for task in tasks:
            task.result(LIMIT_S)
    warm = [(at_s, uss) for at_s, uss in samples if at_s >= min(300.0, length_s / 2)]
    growth = slope(warm) * 600
    shown = [f"{at_s:.0f} s: {uss / 2**20:.1f} MiB" for at_s, uss in samples[:: max(1, len(samples) // 20)]]
    assert growth < 1e6, f"{growth / 1e6:.2f} MB in 10 minutes; {', '.join(shown)}"
    Path(os.environ.get("EMBEDMILL_TEST_SOAK_REPORT", os.devnull)).write_text(f"{growth / 1e6:.3f} MB; {shown}\n")


def slope(points: list[tuple[float, int]]) -> float:
    """Bytes a second, by least squares."""
    middle_s = sum(at_s for at_s, _ in points) / len(points)
    middle = sum(uss for _, uss in points) / len(points)
    below = sum((at_s - middle_s) ** 2 for at_s, _ in points)
    return sum((at_s - middle_s) * (uss - middle) for at_s, uss in points) / below
