"""A password is in no log, error or repr, and on no command line, whatever goes wrong with the connection."""

import subprocess
import sys
import time

import psutil
import pytest
import redis

from embedmill import AsyncEmbeddingClient, EmbeddingClient, EmbedError
from embedmill.urls import mask_url
from embedmill_worker.settings import WorkerSettings
from support.servers import free_port, plain_redis

MODEL = "all-MiniLM-L6-v2"

#: As it is, and as it stands in a URL.
SECRET, QUOTED = "z:ebr@/ä", "z%3Aebr%40%2F%C3%A4"


@pytest.fixture
def guarded(own_valkey):
    with plain_redis(own_valkey.url) as server:
        server.config_set("requirepass", SECRET)
    return own_valkey


def urls(guarded):
    port = free_port()
    return {
        "stopped": f"redis://:{QUOTED}@127.0.0.1:{port}/0",
        "stopped, with a user": f"redis://miller:{QUOTED}@127.0.0.1:{port}/0",
        "TLS to nobody": f"rediss://:{QUOTED}@localhost:{port}/0",
        "wrong password": f"unix://:{QUOTED}wrong@{guarded.socket}?db=0",
        "sentinels away": f"redis+sentinel://:{QUOTED}@127.0.0.1:{port}/mymaster?sentinel_password={QUOTED}",
        "in the query": f"redis://127.0.0.1:{port}/0?password={QUOTED}",
    }


def assert_clean(text):
    assert SECRET not in text
    assert QUOTED not in text
    assert "ebr" not in text


def test_no_client_error_and_no_repr_shows_a_password(guarded, namespace):
    for name, url in urls(guarded).items():
        assert_clean(mask_url(url))
        assert_clean(repr(WorkerSettings(redis_url=url, namespace=namespace)))
        with EmbeddingClient(url, MODEL, namespace=namespace) as client:
            assert_clean(repr(client.settings) + repr(client) + repr(AsyncEmbeddingClient(url, MODEL).settings))
            with pytest.raises(EmbedError) as caught:
                client.embed(["a"], timeout_s=0.2)
            assert_clean(f"{name}: {caught.value} {caught.value.args}")


def test_no_worker_log_and_no_command_line_shows_a_password(guarded, make_mill):
    mills = {name: make_mill(url) for name, url in urls(guarded).items() if name != "in the query"}
    served = make_mill(f"unix://:{QUOTED}@{guarded.socket}?db=0")
    workers = [mill.start_worker(ready=False) for mill in mills.values()]
    workers.append(served.start_worker())
    with redis.Redis(unix_socket_path=str(guarded.socket), password=SECRET) as server:
        server.client_kill_filter(_type="normal", skipme=True)
    with EmbeddingClient(served.redis_url, MODEL, namespace=served.namespace) as client:
        assert client.embed(["served"]).shape == (1, 384)
    deadline = time.monotonic() + 60
    while not all("trying again" in worker.log for worker in workers[:-1]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for worker in workers:
        assert "trying again" in worker.log or "ready" in worker.log
        assert_clean(worker.log)
        process = psutil.Process(worker.pid)
        for one in [process, *process.children(recursive=True)]:
            assert_clean(" ".join(one.cmdline()))
        worker.kill()


def test_the_command_line_shows_no_password(guarded):
    for url in (urls(guarded)["wrong password"], urls(guarded)["in the query"]):
        command = [sys.executable, "-m", "embedmill_worker.cli", "status", "--redis-url", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode
        assert_clean(done.stdout + done.stderr)
