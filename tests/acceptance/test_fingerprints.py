"""Vectors of two models are never mixed under one name."""

import json
import shutil
from pathlib import Path

import pytest

from embedmill import EmbeddingClient
from embedmill.protocol.keys import Keyspace
from embedmill_worker import exit_codes
from embedmill_worker.models import resolve
from support.servers import plain_redis

MODEL = "all-MiniLM-L6-v2"


@pytest.fixture
def shorter_model(data_dir, tmp_path) -> Path:
    """The default model's folder, but with a limit of 128 tokens: other vectors for long texts."""
    source = resolve(MODEL, data_dir=data_dir).tokenizer.parent
    folder = tmp_path / "shorter"
    shutil.copytree(source, folder)
    config = folder / "sentence_bert_config.json"
    config.write_text(json.dumps({"max_seq_length": 128, "do_lower_case": False}))
    return folder


def test_a_worker_with_other_files_under_a_served_name_refuses_to_start(own_mill, shorter_model):
    first = own_mill.start_worker()
    second = own_mill.start_worker(ready=False, EMBEDMILL_MODEL=f"{MODEL}={shorter_model}")
    assert second.process.wait(60) == exit_codes.FINGERPRINT
    assert "--rollover" in second.log
    assert first.process.poll() is None
    third = own_mill.start_worker(EMBEDMILL_MODEL=f"{MODEL}={shorter_model}", EMBEDMILL_ROLLOVER="1")
    assert third.process.poll() is None


def test_a_job_that_another_model_began_is_never_finished_by_this_one(own_mill, shorter_model):
    first = own_mill.start_worker()
    server, keys = plain_redis(own_mill.redis_url), Keyspace(own_mill.namespace)
    with EmbeddingClient(own_mill.redis_url, MODEL, namespace=own_mill.namespace) as client:
        job = client.submit(["text " * (1 + i % 200) for i in range(2_000)])
        while job.status().texts_done == 0:
            pass
        assert first.stop() == 0
        pinned = job.status().fingerprint
        done = job.status().texts_done
        own_mill.start_worker(EMBEDMILL_MODEL=f"{MODEL}={shorter_model}")
        reply = job.result(120)
        assert reply.fingerprint == pinned
        assert len(reply.rejected) == 2_000 - done > 0
        assert {r.reason for r in reply.rejected} == {"model_changed"}
        # What nobody had begun is served by the new model.
        assert client.submit(["text"]).result(60).fingerprint != pinned
    assert server.zcard(keys.active(MODEL, "bulk")) == 0
