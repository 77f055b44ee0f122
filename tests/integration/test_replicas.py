"""EMBEDMILL_WAIT_REPLICAS against a real replica, present, frozen and away."""

import os
import random
import signal

import pytest

from embedmill import EmbeddingClient, NotReplicatedError
from servers import free_port, start
from waiting import wait_until


@pytest.fixture
def pair(valkey_binary, tmp_path):
    """A master and its replica."""
    master = start(valkey_binary, tmp_path / "master", free_port(), "--repl-diskless-sync-delay", "0")
    replica = start(valkey_binary, tmp_path / "replica", free_port(), "--replicaof", "127.0.0.1", str(master.port))
    with replica.client() as client:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up")
    yield master, replica
    os.kill(replica.process.pid, signal.SIGCONT)
    for server in (replica, master):
        server.kill()


@pytest.fixture
def client(pair, namespace, monkeypatch):
    monkeypatch.setenv("EMBEDMILL_WAIT_REPLICAS", "1")
    with EmbeddingClient(f"redis://127.0.0.1:{pair[0].port}/0", "paper", namespace=namespace) as made:
        yield made


def test_a_submitted_job_is_on_the_replica_when_submit_returns(pair, client, namespace):
    job = client.submit(["kept twice"])
    with pair[1].client() as replica:
        assert replica.exists(f"{namespace}:job:{job.id}")


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_job_that_too_few_replicas_have_is_stored_and_told_and_may_be_submitted_again(pair, client, size):
    texts = ["kept once"] if size == "small" else [random.Random(n).randbytes(100_000).hex() for n in range(5)]
    client.submit(["warm"])
    os.kill(pair[1].process.pid, signal.SIGSTOP)
    for _ in range(2):  # asked again, it is told again
        with pytest.raises(NotReplicatedError, match="0 of 1 replicas have it"):
            client.submit(texts, job_id="once")
    assert client.job("once").status().n_texts == len(texts)
    os.kill(pair[1].process.pid, signal.SIGCONT)
    assert client.submit(texts, job_id="once").id == "once"
