"""A Redis that comes back empty, or with another time: what workers announce comes back, who is dead is dead."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest

from embedmill import EmbeddingClient
from embedmill.errors import UnknownModelError
from embedmill.protocol.keys import Keyspace
from embedmill.settings import ClientSettings
from embedmill_worker import exit_codes
from embedmill_worker.cli.local.die_with_parent import tethered
from embedmill_worker.cli.local.server import BINARY_VARIABLE, EmbeddedValkey, find_binary
from embedmill_worker.cli.measure import corpus
from support.clock import Clock
from support.held_claims import held_claims
from support.servers import plain_redis
from support.waiting import PATIENCE_S, status_of, wait_until

MODEL = "all-MiniLM-L6-v2"
TEXTS = corpus.short(20, seed=22)


def test_what_workers_announce_comes_back_when_redis_has_lost_it(durable_mill):
    durable_mill.start_worker()
    settings = ClientSettings.from_env(environ=durable_mill.env)
    with (
        plain_redis(durable_mill.redis_url) as server,
        EmbeddingClient(durable_mill.redis_url, namespace=durable_mill.namespace) as before,
    ):
        vectors = before.embed(TEXTS)
        for _ in range(3):
            server.flushall()
            assert not status_of(settings).workers  # nobody is «ready» of whom nothing else is known
            wait_until(lambda: any(w.state == "ready" for w in status_of(settings).workers))
            # Said to be ready, it can be used: by who has just come, and by who was there before.
            with EmbeddingClient(durable_mill.redis_url, namespace=durable_mill.namespace) as fresh:
                assert np.array_equal(fresh.embed(TEXTS), vectors)
                assert np.array_equal(fresh.submit(TEXTS).result(PATIENCE_S).vectors, vectors)
            assert np.array_equal(before.embed(TEXTS), vectors)


def test_a_worker_whose_cards_are_lost_is_not_ready_until_they_are_back(durable_mill):
    durable_mill.start_worker()
    settings, keys = ClientSettings.from_env(environ=durable_mill.env), Keyspace(durable_mill.namespace)
    with plain_redis(durable_mill.redis_url) as server:
        for _ in range(20):
            server.delete(keys.models)
            if any(w.state == "ready" for w in status_of(settings).workers):
                # Then its card was back by that time.
                with EmbeddingClient(durable_mill.redis_url, namespace=durable_mill.namespace) as client:
                    try:
                        assert len(client.embed(TEXTS)) == len(TEXTS)
                    except UnknownModelError as error:
                        pytest.fail(f"said to be ready: {error}")
        wait_until(lambda: server.exists(keys.models))


def test_a_worker_that_died_before_redis_s_clock_was_set_back_is_dead_all_the_same(make_mill, tmp_path, monkeypatch):
    try:
        clock = Clock(find_binary(), tmp_path)
    except OSError:
        pytest.skip("needs a C compiler (cc): the server's clock is set by a library that is loaded before it")
    monkeypatch.setenv(BINARY_VARIABLE, str(clock.program))
    with EmbeddedValkey(tmp_path / "valkey", persistent=True) as valkey, plain_redis(valkey.url) as server:
        mill = make_mill(valkey.url)
        worker = mill.start_worker(EMBEDMILL_CONCURRENCY="1")
        keys, settings = Keyspace(mill.namespace), ClientSettings.from_env(environ=mill.env)
        with EmbeddingClient(valkey.url, MODEL, namespace=mill.namespace) as client:
            job = client.submit(corpus.mixed(300, seed=1))
            wait_until(lambda: held_claims(server, keys, job))
            worker.kill()
            then_s = server.time()[0]
            clock.move(-3_600)
            wait_until(lambda: server.time()[0] < then_s - 3_000, "the server's clock was not set")
            other = mill.start_worker()
            wait_until(lambda: [w.pid for w in status_of(settings).workers] == [other.pid])
            assert job.result(600).rejected == ()
            clock.move(3_600)  # and forth: who lives is live at the next beat
            assert client.embed(TEXTS).shape == (len(TEXTS), 384)
            wait_until(lambda: [w.state for w in status_of(settings).workers] == ["ready"])


def test_a_worker_without_file_descriptors_ends_with_an_exit_code_that_restarts_it(own_mill, tmp_path):
    command = [sys.executable, "-m", "celery", "-A", "embedmill_worker.app", "worker"]
    # At 24, and at 20 with one child, a worker may just run, but for its sweeps, which say each time that none is left.
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)); "
    limited = [sys.executable, "-c", f"{limit}os.execv(sys.argv[1], sys.argv[1:])", *command]
    with (tmp_path / "log").open("wb") as log:  # a pipe would be waited for as long as a child of its holds it
        process = subprocess.Popen(
            tethered(limited),
            env={**own_mill.env, "EMBEDMILL_CONCURRENCY": "2"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        code = process.wait(PATIENCE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
    assert code not in (exit_codes.OK, exit_codes.GRACE), (tmp_path / "log").read_text(errors="replace")
