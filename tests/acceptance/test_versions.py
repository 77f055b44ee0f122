"""Worker and client of different protocol versions: a clear error, no loop, and an upgrade that loses nothing."""

import os

import numpy as np
import pytest

from embedmill import EmbeddingClient, JobState, ProtocolVersionError, ResultTimeoutError
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.version import PROTOCOL_VERSION
from support import apps
from support.servers import plain_redis

MODEL = "all-MiniLM-L6-v2"


def start_newer(mill):
    path = os.pathsep.join(filter(None, [apps.FOLDER, os.environ.get("PYTHONPATH", "")]))
    return mill.start_worker(app="other_version_app", PYTHONPATH=path)


def test_work_that_no_live_worker_can_read_is_refused_or_waits_without_a_loop_and_is_done_by_one_who_can(own_mill):
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        job = client.submit(["before the upgrade"])
        newer = start_newer(own_mill)
        with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as fresh:
            with pytest.raises(ProtocolVersionError, match=f"protocol {PROTOCOL_VERSION}, .* {PROTOCOL_VERSION + 1}"):
                fresh.embed(["after it"])
            with pytest.raises(ProtocolVersionError):
                fresh.submit(["after it"])
            with pytest.raises(ResultTimeoutError, match=f"speak protocol {PROTOCOL_VERSION + 1}, this client"):
                fresh.job(job.id).result(6)  # two sweeps
        with plain_redis(own_mill.redis_url) as server:
            assert server.llen(Keyspace(own_mill.namespace).queue(MODEL, "bulk")) == 1  # nobody took it, nobody rang it
        assert job.status().state is JobState.QUEUED
        own_mill.start_worker()
        assert np.isfinite(job.result(60).vectors).all()
        assert newer.process.poll() is None


def test_an_upgrade_with_workers_of_both_versions_loses_nothing(own_mill):
    own_mill.start_worker()
    start_newer(own_mill)
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        texts = [f"text {n} of a job during an upgrade" for n in range(300)]
        reply = client.submit(texts).result(25)
        assert reply.rejected == ()
        assert np.isfinite(reply.vectors).all()
