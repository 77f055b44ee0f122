"""docs/protocol.md: its client, which knows Redis and msgpack alone, gets the vectors of ours."""

import json
import subprocess
import sys

import numpy as np

from conftest import REPOSITORY
from embedmill import EmbeddingClient
from embedmill.protocol.keys import Keyspace
from support.protocol_page import BLOCKS, TEXTS
from support.servers import plain_redis
from support.waiting import PATIENCE_S

MODEL = "all-MiniLM-L6-v2"


def test_the_page_s_client_gets_the_same_bits_and_leaves_nothing(mill):
    with plain_redis(mill.redis_url) as server:
        before = set(server.scan_iter(Keyspace(mill.namespace).job("*")))
    command = [sys.executable, "-c", BLOCKS["python client"], *TEXTS]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**mill.env, "EMBEDMILL_MODEL": MODEL},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace) as client:
        assert np.array(json.loads(done.stdout), dtype=np.float32).tobytes() == client.embed(TEXTS).tobytes()
    with plain_redis(mill.redis_url) as server:
        assert set(server.scan_iter(Keyspace(mill.namespace).job("*"))) <= before
