"""One attempt, with real receivers and a resolver that each test scripts: nothing leads to an address not allowed.

127.0.0.2 is a receiver's address that is allowed here; 127.0.0.1 one that is not, as all of loopback is elsewhere.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
import time

import pytest
import trustme

from embedmill_worker.webhooks.addresses import AddressRules
from embedmill_worker.webhooks.sender import Message, Sender
from support.receiver import Receiver

SECRET = "whsec_" + "A" * 32
RULES = AddressRules.parse("127.0.0.2/31", "test")  # 127.0.0.2 and 127.0.0.3
OPEN, CLOSED = "127.0.0.2", "127.0.0.1"


class Resolver:
    """Answers as it is told to, one answer after the other; the last one stays."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def __call__(self, host, port):
        self.asked.append((host, port))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def sent(url, *answers, times=1, rules=RULES, **options):
    """The outcomes of attempts, and the resolver."""
    resolver = Resolver(*answers or ([OPEN],))

    async def run():
        sender = Sender(rules, resolve=resolver, **{"attempt_s": 20.0} | options)
        message = Message(event_id="evt_1", url=url, secret=SECRET, body='{"type": "job.completed"}')
        try:
            return [await sender.send(message, "agent") for _ in range(times)]
        finally:
            await sender.close()

    return asyncio.run(run()), resolver


def pair():
    """Two receivers on one port: the one that may be reached, and the one that may not."""
    for _ in range(10):
        allowed = Receiver(host=OPEN)
        try:
            return allowed, Receiver(host=CLOSED, port=allowed.port)
        except OSError:  # somebody else has that port
            allowed.server.server_close()
    raise AssertionError("no port is free on both addresses")


@pytest.fixture
def both():
    allowed, forbidden = pair()
    with allowed, forbidden:
        yield allowed, forbidden


def test_a_name_is_resolved_once_and_the_receiver_is_told_it(both):
    allowed, forbidden = both
    (outcome,), resolver = sent(f"http://hooks.example:{allowed.port}/hook?a=b")
    assert outcome.is_delivered
    (delivery,) = allowed.deliveries
    assert delivery.path == "/hook?a=b"
    headers = {name.lower(): value for name, value in delivery.headers.items()}
    assert headers["host"] == f"hooks.example:{allowed.port}" and headers["user-agent"] == "agent"
    assert delivery.verified(SECRET) == {"type": "job.completed"}
    assert resolver.asked == [("hooks.example", allowed.port)]
    assert forbidden.deliveries == []


@pytest.mark.parametrize(
    "answers",
    [[CLOSED], [OPEN, CLOSED], [CLOSED, OPEN], ["::1"], ["::ffff:127.0.0.2"], ["169.254.169.254"], ["10.0.0.1"], []],
)
def test_a_name_with_one_address_that_is_not_allowed_is_refused(both, answers):
    allowed, forbidden = both
    (outcome,), _ = sent(f"http://hooks.example:{allowed.port}/hook", answers)
    assert not outcome.is_delivered and outcome.reason.startswith("refused: ")
    assert allowed.deliveries == forbidden.deliveries == []


@pytest.mark.parametrize("host", [CLOSED, "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433"])
def test_a_literal_that_is_not_allowed_is_refused_without_asking(both, host):
    allowed, forbidden = both
    (outcome,), resolver = sent(f"http://{host}:{allowed.port}/hook")
    assert not outcome.is_delivered and outcome.reason.startswith("refused: ")
    assert forbidden.deliveries == resolver.asked == []


def test_dns_that_changes_between_check_and_connection_changes_nothing(both, monkeypatch):
    """The resolver answers with the allowed address first, and whoever asks again gets the other one."""
    allowed, forbidden = both
    asked, real = [], socket.getaddrinfo

    def rebound(host, *args, **kwargs):
        asked.append(host)
        return real(CLOSED if host == "rebind.example" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    outcomes, resolver = sent(f"http://rebind.example:{allowed.port}/hook", [OPEN], [CLOSED], times=3)
    assert [outcome.is_delivered for outcome in outcomes] == [True, False, False]
    assert len(resolver.asked) == 3 and "rebind.example" not in asked
    assert (len(allowed.deliveries), forbidden.deliveries) == (1, [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status):
    allowed, forbidden = pair()
    allowed.statuses, allowed.location = [status], forbidden.url
    with allowed, forbidden:
        (outcome,), resolver = sent(f"http://hooks.example:{allowed.port}/hook")
    assert (outcome.is_delivered, outcome.is_retryable) == (False, True)
    assert str(status) in outcome.reason
    assert (len(allowed.deliveries), forbidden.deliveries, len(resolver.asked)) == (1, [], 1)


@pytest.mark.parametrize(
    ("status", "is_delivered", "is_retryable"), [(200, 1, 1), (404, 0, 1), (410, 0, 0), (500, 0, 1)]
)
def test_the_status_decides(status, is_delivered, is_retryable):
    with Receiver(status, host=OPEN) as receiver:
        (outcome,), _ = sent(receiver.url)
    assert (outcome.is_delivered, outcome.is_retryable) == (bool(is_delivered), bool(is_retryable))


def test_the_next_address_is_tried_where_nobody_listens():
    with Receiver(host=OPEN) as receiver:
        (outcome,), _ = sent(f"http://hooks.example:{receiver.port}/hook", ["127.0.0.3", OPEN])
    assert outcome.is_delivered and len(receiver.deliveries) == 1


def test_proxies_of_the_environment_are_ignored(both, monkeypatch):
    allowed, proxy = both
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://{CLOSED}:{proxy.port}")
    (outcome,), _ = sent(f"http://hooks.example:{allowed.port}/hook")
    assert outcome.is_delivered and proxy.deliveries == []


@pytest.mark.parametrize("error", [socket.gaierror(-2, "zebra"), OSError("zebra"), UnicodeError("zebra")])
def test_a_name_without_an_answer_fails(error):
    (outcome,), _ = sent("http://hooks.example/hook", error)
    assert not outcome.is_delivered and outcome.is_retryable and "zebra" not in outcome.reason


@contextlib.contextmanager
def raw_server(answer, host=OPEN, pause_s=0.0, tls=None):
    """A server that reads a request's beginning and sends bytes, without end if they are many."""
    listening = socket.create_server((host, 0))
    ended = threading.Event()

    def serve():
        while not ended.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(30)
                with tls.wrap_socket(connection, server_side=True) if tls else connection as stream:
                    request = b""
                    while not request.endswith(b"}"):  # what is left unread would end the connection with a reset
                        request += stream.recv(65_536) or b"}"
                    for part in answer():
                        stream.sendall(part)
                        if ended.wait(pause_s):
                            break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(30)
        assert not thread.is_alive()


def endless(first, part):
    def answer():
        yield first
        while True:
            yield part

    return answer


def test_a_body_without_end_is_not_read():
    with raw_server(endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536)) as port:
        (outcome,), _ = sent(f"http://hooks.example:{port}/hook")
    assert outcome.is_delivered


def test_headers_without_end_are_refused():
    with raw_server(endless(b"HTTP/1.1 200 OK\r\n", b"x-zebra: " + b"x" * 65_536 + b"\r\n")) as port:
        (outcome,), _ = sent(f"http://hooks.example:{port}/hook")
    assert not outcome.is_delivered and "zebra" not in outcome.reason


def test_an_answer_that_drips_has_the_time_of_one_attempt():
    began_s = time.monotonic()
    with raw_server(endless(b"HTTP/1.1 200 OK\r\n", b"x"), pause_s=0.05) as port:
        (outcome,), _ = sent(f"http://hooks.example:{port}/hook", attempt_s=0.5)
        assert not outcome.is_delivered and "0.5 s" in outcome.reason
    assert time.monotonic() - began_s < 30


@pytest.mark.parametrize(
    "answer", [b"", b"zebra\r\n\r\n", b"HTTP/1.1 999999 \r\n\r\n", b"HTTP/1.1 200", b"\x16\x03\x01"]
)
def test_what_is_no_http_fails(answer):
    with raw_server(lambda: iter([answer])) as port:
        (outcome,), _ = sent(f"http://hooks.example:{port}/hook")
    assert not outcome.is_delivered and "zebra" not in outcome.reason


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def server_context(authority, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def client_context(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize(
    ("host", "certified", "is_delivered"),
    [("hooks.example", "hooks.example", True), ("hooks.example", "other.example", False), (OPEN, OPEN, True)],
)
def test_tls_is_spoken_with_the_name_though_the_address_is_connected_to(authority, host, certified, is_delivered):
    names = []
    tls = server_context(authority, certified)
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    with raw_server(lambda: iter([b"HTTP/1.1 204 No Content\r\n\r\n"]), tls=tls) as port:
        (outcome,), _ = sent(f"https://{host}:{port}/hook", context=client_context(authority))
    assert outcome.is_delivered is is_delivered, outcome
    assert names == [host if host != OPEN else None]


def test_a_certificate_of_nobody_known_is_refused(authority):
    with raw_server(lambda: iter([b""]), tls=server_context(authority, "hooks.example")) as port:
        (outcome,), _ = sent(f"https://hooks.example:{port}/hook")
    assert not outcome.is_delivered
