"""kombu's Redis transport as the worker mends it."""

import pytest
import redis
from kombu import Connection
from kombu.transport import redis as transport

from embedmill_worker.celery_patches.pool import mend_transport
from embedmill_worker.cli.local.server import EmbeddedValkey
from embedmill_worker.service.broker import broker_settings
from support.servers import plain_redis


@pytest.fixture
def full_server(valkey_binary):
    """A server that refuses whatever may grow."""
    with EmbeddedValkey(persistent=False, maxmemory_bytes=8 << 20) as server:
        with plain_redis(server.url) as client:
            client.config_set("maxmemory", "1")
            with pytest.raises(redis.OutOfMemoryError):
                client.set("k", "v")
        yield server


def test_a_full_redis_is_no_lost_connection_when_messages_are_to_be_restored(full_server):
    mend_transport()
    with Connection(broker_settings(full_server.url)["broker_url"]) as connection:
        qos = transport.QoS(connection.channel())
        for _ in range(3):
            assert qos.restore_visible(interval=1) is None


def test_mending_twice_is_mending_once():
    mend_transport()
    before = (transport.QoS.restore_visible, transport.Channel._connparams)
    mend_transport()
    assert before == (transport.QoS.restore_visible, transport.Channel._connparams)
