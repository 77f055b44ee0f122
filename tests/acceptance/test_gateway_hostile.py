"""What hostile or broken clients do to the gateway: it refuses, in the API's own words, and lives on."""

import contextlib
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from support.gateway import Gateway
from support.gateway import start as start_gateway
from support.waiting import wait_until

#: With the tours of test_gateway_clients.py in `make test`, minutes of further processes can wait for `make deep`.
pytestmark = pytest.mark.deep

#: Seconds that a connection may take here; far more than anything does.
LIMIT_S = 60.0

#: Seconds that the gateway of these tests waits for headers, bodies, readers and the idle; else 20, 30, 120, 75.
HEADERS_S, BODY_S, ANSWER_S, IDLE_S = 2, 5, 2, 4

GROWTH_BYTES = 64 << 20


@pytest.fixture(scope="module")
def target(mill) -> Iterator[Gateway]:
    """A gateway that is impatient and takes bodies of 1 MiB."""
    with tempfile.TemporaryDirectory() as folder:
        found = start_gateway(
            mill.env,
            Path(folder),
            EMBEDMILL_HEADERS_TIMEOUT_S=str(HEADERS_S),
            EMBEDMILL_BODY_TIMEOUT_S=str(BODY_S),
            EMBEDMILL_ANSWER_TIMEOUT_S=str(ANSWER_S),
            EMBEDMILL_IDLE_TIMEOUT_S=str(IDLE_S),
            EMBEDMILL_MAX_BODY_MIB="1",
        )
        yield found
        assert found.stop() == 0, found.log
        place = found.log.find("Traceback")
        assert place < 0, found.log[place - 1_000 : place + 6_000]


@pytest.fixture(autouse=True)
def lives_on(target) -> Iterator[None]:
    """After every test the gateway embeds, over HTTP and gRPC."""
    yield
    assert target.process.poll() is None, target.log
    reply = httpx.post(f"{target.url}/v1/embeddings", json={"input": "Selamat pagi"}, timeout=LIMIT_S)
    assert reply.status_code == 200, reply.text
    with grpc.insecure_channel(target.grpc_address) as channel:
        assert call(channel)(b"\x0a\x04pagi", timeout=LIMIT_S, wait_for_ready=True)


def call(channel: grpc.Channel):
    """Speaks to the service in bytes."""
    return channel.unary_unary("/embedding.EmbeddingService/GetEmbeddings")


def connect(target: Gateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", target.port), timeout=LIMIT_S)


def say(target: Gateway, data: bytes) -> bytes:
    """Sends bytes, and nothing after them; gives all that comes back until the gateway hangs up."""
    with connect(target) as client:
        client.sendall(data)
        return until_closed(client)


def until_closed(client: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/embeddings") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"host: localhost", b"connection: close", *headers]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])


def memory(target: Gateway) -> int:
    return psutil.Process(target.process.pid).memory_full_info().uss


def schemathesis(target: Gateway, examples: int, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{target.url}/openapi.json",
        "--seed",
        "1",
        "--no-color",
    ]
    command += ["--max-examples", str(examples), "--continue-on-failure", "--request-timeout", str(LIMIT_S)]
    checks = ["not_a_server_error", "status_code_conformance", "content_type_conformance"]
    command += ["--checks", ",".join([*checks, "response_schema_conformance", "unsupported_method"])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]


def test_no_answer_is_other_than_the_document_says(target, tmp_path):
    schemathesis(target, 5, tmp_path)


@pytest.mark.deep
def test_no_answer_is_other_than_the_document_says_in_many_examples(target, tmp_path):
    schemathesis(target, 50, tmp_path)


NESTED = b"[" * 100_000

#: Body → status of /v1/embeddings; each answer is OpenAI's error, and nothing of the body is in it.
BODIES = {
    "empty": (b"", 400),
    "no JSON": (b"zebra", 400),
    "a half": (b'{"input": "zebra', 400),
    "two": (b'{"input": "zebra"}{"input": "zebra"}', 400),
    "no object": (b'["zebra"]', 400),
    "null": (b"null", 400),
    "nested": (b'{"input": ' + NESTED, 400),
    "nested and closed": (b'{"input": ' + NESTED + b"]" * len(NESTED) + b"}", 400),
    "nested in what is ignored": (b'{"input": "zebra", "other": ' + NESTED + b"]" * len(NESTED) + b"}", 400),
    "a lone surrogate": (rb'{"input": "zebra \ud800"}', 400),
    "bytes that are no UTF-8": (b'{"input": "zebra \xff"}', 400),
    "UTF-16": ('{"input": "zebra"}'.encode("utf-16"), 400),
    "NaN": (b'{"input": "zebra", "dimensions": NaN}', 400),
    "an infinite number": (b'{"input": "zebra", "dimensions": 1e999}', 400),
    "a huge int": (b'{"input": "zebra", "dimensions": ' + b"9" * 5_000 + b"}", 400),
    "a huge token": (b'{"input": [' + b"9" * 30 + b"]}", 400),
    "a negative token": (b'{"input": [-1]}', 400),
    "a fraction of a token": (b'{"input": [1.5]}', 400),
    "no dimensions": (b'{"input": "zebra", "dimensions": 0}', 400),
    "many dimensions": (b'{"input": "zebra", "dimensions": 4294967296}', 400),
    "mixed": (b'{"input": ["zebra", 1]}', 400),
    "nothing in a list": (b'{"input": []}', 400),
    "an empty text in a list": (b'{"input": ["zebra", ""]}', 400),
    "true": (b'{"input": true}', 400),
    "many texts": (json.dumps({"input": ["a"] * 2_049}).encode(), 400),
    "no such model": (b'{"input": "zebra", "model": "no/such/model"}', 404),
    "a model with a zero": (rb'{"input": "zebra", "model": "a\u0000b"}', 404),
    "a lane that is not": (b'{"input": "zebra", "lane": "fast"}', 400),
    "a format that is not": (rb'{"input": "zebra", "encoding_format": "\r\nset-cookie: a=b"}', 400),
    "zeros": (rb'{"input": "\u0000\u0000"}', 200),
    "a key twice": (b'{"input": "zebra", "input": "river"}', 200),
    "keys that are ignored": (b'{"input": "river", "": {"a": [null]}}', 200),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_get_the_apis_own_errors(target, name):
    body, status = BODIES[name]
    head, _, answer = say(target, post(body)).partition(b"\r\n\r\n")
    assert status_of(head) == status, answer[:500]
    found = json.loads(answer)
    if status != 200:
        assert set(found["error"]) == {"message", "type", "param", "code"}
        assert b"zebra" not in answer and b"set-cookie" not in head.lower()


@pytest.mark.parametrize("path", ["/embed", "/api/embed", "/api/embeddings"])
def test_bodies_of_the_other_apis_are_read_with_the_same_care(target, path):
    for body, _ in list(BODIES.values())[:12]:
        answer = say(target, post(body, path=path.encode()))
        assert status_of(answer) in (400, 404, 422), answer[:300]
        assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
        assert b"zebra" not in answer


def test_bodies_over_the_limit_are_refused_before_they_have_come(target):
    whole = post(b"")
    announced = whole.replace(b"content-length: 0", b"content-length: %d" % (1 << 40))
    with connect(target) as client:
        client.sendall(announced)
        answer = until_closed(client)
    assert status_of(answer) == 413
    assert b"invalid_request_error" in answer


@pytest.mark.parametrize("size", [b"1", b"400", b"fffff"])
def test_chunked_bodies_over_the_limit_are_refused(target, size):
    # sent until the gateway answers: it reads no more than it must
    count = max(1, 4_096 // int(size, 16))
    piece = (size + b"\r\n" + b" " * int(size, 16) + b"\r\n") * count
    with connect(target) as client:
        client.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(2 * (1 << 20) // int(size, 16) // count):
                client.sendall(piece)
        # Of single bytes a busy machine may not read a MiB in time.
        assert status_of(until_closed(client)) in ((413, 408) if size == b"1" else (413,))


ODD_REQUESTS = {
    "noise": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"GET /ping\r\n\r\n",
    "a version that is not": b"GET /ping HTTP/9.9\r\nhost: localhost\r\n\r\n",
    "a zero in the path": b"GET /p\x00ng HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a zero in a header": b"GET /ping HTTP/1.1\r\nhost: local\x00host\r\n\r\n",
    "a length that is no number": b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: zebra\r\n\r\n",
    "a length below zero": b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
    "a length beyond all": b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: " + b"9" * 40 + b"\r\n\r\n",
    "two lengths": b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "a length and chunks": b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks that are none": b"POST /embed HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzebra\r\n",
    "a broken host": b"GET /v1/models HTTP/1.1\r\nhost: [::1\r\nconnection: close\r\n\r\n",
    "a broken origin": b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\norigin: http://[\r\nconnection: close\r\n\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n",
    "a path of escapes": b"GET /v1/models/%ff%00%2e%2e HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    "a long path": b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    "a method that is not": b"ZEBRA /embed HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    "an upgrade": b"GET /ping HTTP/1.1\r\nhost: [::1\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("name", ODD_REQUESTS)
def test_odd_requests_end_with_a_refusal_and_within_the_limits(target, name):
    answer = say(target, ODD_REQUESTS[name])
    if answer:  # else it hung up
        assert 400 <= status_of(answer) < 500 or name == "an upgrade", answer[:300]


def test_random_requests_get_no_fault_of_the_gateway(target):
    rng = random.Random(5)
    whole = post(b'{"input": "river"}', b"content-type: application/json")
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with connect(target) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            answer = until_closed(client)
        assert not answer or status_of(answer) < 500, (bytes(data), answer)


FLOODS = {
    "one header": (b"GET /ping HTTP/1.1\r\nhost: localhost\r\nx: ", b"a" * 4_096),
    "many headers": (b"GET /ping HTTP/1.1\r\nhost: localhost\r\n", b"x: a\r\n" * 1_000),
    "a path": (b"GET /", b"a" * 4_096),
    "line ends": (b"", b"\r\n" * 2_048),
    "a size of a chunk": (
        b"POST /embed HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1;",
        b"a" * 4_096,
    ),
    "trailers": (
        b"POST /embed HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
        b"x: a\r\n" * 1_000,
    ),
    "a body after its answer": (
        b"POST /none HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n",
        b"400\r\n" + b" " * 1_024 + b"\r\n",
    ),
    "a body of a GET": (
        b"GET /ping HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n",
        b"400\r\n" + b" " * 1_024 + b"\r\n",
    ),
}


@pytest.mark.parametrize("name", FLOODS)
def test_what_never_ends_is_ended_and_memory_stays(target, name):
    begin, more = FLOODS[name]
    before = memory(target)
    sent = 0
    deadline = time.monotonic() + LIMIT_S
    with connect(target) as client, contextlib.suppress(ConnectionError):
        client.sendall(begin)
        while time.monotonic() < deadline:
            client.sendall(more)
            sent += len(more)
    assert time.monotonic() < deadline, f"after {sent} bytes it still reads"
    assert memory(target) - before < GROWTH_BYTES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"G",
        b"GET /ping HTTP/1.1\r\nhost: loc",
        b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\nGET",
        b"POST /none HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n",
    ],
)
def test_clients_that_say_no_more_are_hung_up_on(target, data):
    say(target, data)


def test_line_ends_after_an_answer_gain_a_connection_no_time(target):
    with connect(target) as client:
        client.sendall(b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert client.recv(1 << 16)
        client.sendall(b"\r\n")
        until_closed(client)


def test_a_client_that_sends_its_headers_byte_by_byte_is_hung_up_on(target):
    deadline = time.monotonic() + LIMIT_S
    with connect(target) as client, contextlib.suppress(ConnectionError):
        client.settimeout(0.05)
        client.sendall(b"GET /ping HTTP/1.1\r\n")
        while time.monotonic() < deadline:
            client.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                if not client.recv(1):
                    break
    assert time.monotonic() < deadline


def test_a_body_that_comes_byte_by_byte_is_given_up_with_408(target):
    deadline = time.monotonic() + LIMIT_S
    answer = b""
    with connect(target) as client, contextlib.suppress(ConnectionError):
        client.sendall(post(b"").replace(b"content-length: 0", b"content-length: 1000"))
        client.settimeout(0.05)
        while time.monotonic() < deadline and not answer:
            client.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = client.recv(1 << 16)
    assert status_of(answer) == 408
    assert b"retry-after" in answer


def test_a_client_that_does_not_read_its_answers_is_hung_up_on(target):
    body = json.dumps({"input": ["river"] * 512}).encode()
    request = post(body).replace(b"connection: close\r\n", b"")
    with connect(target) as client, contextlib.suppress(ConnectionError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        for _ in range(8):  # pipelined: several MB of answers
            client.sendall(request)
        here = client.getsockname()[1]
        wait_until(lambda: here not in peers(target), "the connection is still there")


def peers(target: Gateway) -> set[int]:
    """Ports of the clients that are connected to the HTTP port."""
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(target.process.pid).net_connections("tcp")
        return {each.raddr.port for each in found if each.laddr.port == target.port and each.raddr}
    return set()


def test_a_thousand_idle_connections_disturb_nobody(gateway):
    idle(gateway, 1_000)


@pytest.mark.deep
def test_ten_thousand_idle_connections_disturb_nobody(gateway):
    idle(gateway, 10_000)


def idle(target: Gateway, count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"{needed} open files are needed, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    before = memory(target)
    try:
        with contextlib.ExitStack() as stack:
            for i in range(count):
                client = stack.enter_context(connect(target))
                if i % 2:
                    client.sendall(b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n")  # idle after an answer, too
                if i % 100 == 0:
                    reply = httpx.post(f"{target.url}/embed", json={"inputs": f"river {i}"}, timeout=LIMIT_S)
                    assert reply.status_code == 200
            assert memory(target) - before < GROWTH_BYTES + count * 32_768
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_clients_with_halves_of_bodies_hold_a_bounded_memory(target):
    # 40 bodies of nearly 1 MiB, and 16 MiB may be held
    begin = b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1048576\r\n\r\n" + b" " * 1_040_000
    answers: list[bytes] = []

    def one() -> None:
        with connect(target) as client:
            with contextlib.suppress(ConnectionError):
                client.sendall(begin)
            client.settimeout(LIMIT_S)
            with contextlib.suppress(ConnectionError):
                answers.append(client.recv(1 << 16))

    threads = [threading.Thread(target=one) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    statuses = {status_of(answer) for answer in answers if answer}
    assert 429 in statuses and statuses <= {408, 429}


def test_grpc_messages_of_noise_are_refused(target):
    rng = random.Random(3)
    with grpc.insecure_channel(target.grpc_address) as channel:
        for i in range(200):
            noise = rng.randbytes(rng.choice([0, 1, 2, 10, 1_000]))
            try:
                call(channel)(noise, timeout=LIMIT_S, wait_for_ready=True)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (i, error)


def test_grpc_takes_no_message_over_its_limit_and_no_method_that_is_not(target):
    with grpc.insecure_channel(target.grpc_address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            call(channel)(bytes(5 << 20), timeout=LIMIT_S, wait_for_ready=True)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for method in ("/embedding.EmbeddingService/None", "/none/None", "/"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(b"", timeout=LIMIT_S)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        PREFACE[:10],
        PREFACE + SETTINGS[:4],
        PREFACE + SETTINGS + b"\x00\xff\xff\x01\x04\x00\x00\x00\x01abc",  # half a frame of headers
        PREFACE + SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",  # a frame over the limit
        PREFACE + SETTINGS + b"\x00\x00\x05\x00\x01\x00\x00\x00\x01zebra",  # data of no stream
        PREFACE + SETTINGS + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",  # a window of nothing
        PREFACE + SETTINGS * 5_000,
        PREFACE + SETTINGS + b"\x00\x00\x08\x06\x00\x00\x00\x00\x00zebraabc" * 5_000,  # pings
        os.urandom(10_000),
    ],
    ids=range(10),
)
def test_frames_of_noise_on_the_port_of_grpc_do_no_harm(target, data):
    with socket.create_connection(("127.0.0.1", target.grpc_port), timeout=LIMIT_S) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        client.settimeout(0.2)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while client.recv(1 << 16):
                pass


def test_grpc_calls_that_are_given_up_leave_nothing_waiting(target):
    with grpc.insecure_channel(target.grpc_address) as channel:
        calls = [call(channel).future(b"\x0a\x05river", wait_for_ready=True) for _ in range(200)]
        for one in calls:
            one.cancel()
    wait_until(lambda: httpx.get(f"{target.url}/health", timeout=LIMIT_S).status_code == 200)
