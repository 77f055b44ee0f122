"""TLS: certificates and names are verified, by worker, Celery and both clients; what is not trusted is told at once."""

import asyncio

import numpy as np
import pytest
from celery import Celery
from kombu import Exchange, Queue

from embedmill import AsyncEmbeddingClient, BrokerUnavailableError, EmbeddingClient, SettingsError
from embedmill_worker.service.broker import broker_settings
from support.servers import TlsDoor

MODEL = "all-MiniLM-L6-v2"


@pytest.fixture
def door(own_valkey, tmp_path):
    made = TlsDoor(own_valkey.socket, tmp_path, client_authority=True)
    yield made
    made.close()


def url_of(door, host="localhost", **options):
    told = {"ssl_ca_certs": door.ca_file, "ssl_certfile": door.cert_file, "ssl_keyfile": door.key_file} | options
    query = "&".join(f"{name}={value}" for name, value in told.items() if value)
    return f"rediss://{host}:{door.port}/0?{query}"


def calls(url, namespace, timeout_s=5):
    """The same call of the blocking and of the asyncio client."""

    def blocking():
        with EmbeddingClient(url, MODEL, namespace=namespace) as client:
            return client.embed(["over TLS"], timeout_s=timeout_s)

    async def awaited():
        async with AsyncEmbeddingClient(url, MODEL, namespace=namespace) as client:
            return await client.embed(["over TLS"], timeout_s=timeout_s)

    return blocking, lambda: asyncio.run(awaited())


def test_worker_clients_and_celery_tasks_speak_tls_with_certificates_on_both_sides(door, make_mill):
    url = url_of(door)
    mill = make_mill(url)
    worker = mill.start_worker()
    rows = [call() for call in calls(url, mill.namespace, timeout_s=60)]
    assert rows[0].tobytes() == rows[1].tobytes()

    app, queue = Celery("stranger", set_as_current=False), f"{mill.namespace}.embed"
    app.conf.update(broker_settings(url))
    app.conf.update(
        result_accept_content=["msgpack"],
        result_serializer="msgpack",
        task_queues=[Queue(queue, Exchange(mill.namespace), routing_key=queue)],
    )
    pending = app.send_task("embedmill.embed", args=[["over TLS"]], queue=queue)
    result = pending.get(timeout=60)
    pending.forget()
    assert np.frombuffer(result["vectors"], "<f4").tobytes() == rows[0].tobytes()
    assert worker.process.poll() is None
    app.close()


@pytest.mark.parametrize(
    "make_url",
    [
        lambda door: url_of(door, ssl_ca_certs=None),
        lambda door: url_of(door, host="127.0.0.1"),
    ],
    ids=["unknown authority", "another name"],
)
def test_a_certificate_that_is_not_trusted_is_refused_at_once(door, namespace, make_url):
    for call in calls(make_url(door), namespace, timeout_s=60):
        with pytest.raises(BrokerUnavailableError, match="not trusted or is issued for another name"):
            call()


def test_a_client_without_a_certificate_is_not_let_in(door, namespace):
    for call in calls(url_of(door, ssl_certfile=None, ssl_keyfile=None), namespace, timeout_s=1):
        with pytest.raises(BrokerUnavailableError):
            call()


def test_a_server_that_speaks_no_tls_is_named_as_such(own_valkey, door, namespace):
    from support.chaos.proxy import Proxy

    plain = Proxy(own_valkey.socket)
    for call in calls(f"rediss://localhost:{plain.port}/0?ssl_ca_certs={door.ca_file}", namespace, timeout_s=1):
        with pytest.raises(BrokerUnavailableError):
            call()
    plain.close()


def test_a_certificate_file_that_is_not_there_is_a_setting_that_cannot_work(door, namespace):
    with pytest.raises(SettingsError, match="ssl_ca_certs is not a file"):
        EmbeddingClient(url_of(door, ssl_ca_certs="/nowhere.pem"), MODEL, namespace=namespace)
