"""docs/operations.md: its commands for jobs and dead letters run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY
from embedmill import EmbeddingClient
from embedmill.protocol import dead_letter
from embedmill.protocol.keys import Keyspace
from support.protocol_page import TEXTS, letter
from support.servers import plain_redis
from support.waiting import PATIENCE_S

PAGE = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
JOBS, LETTERS = (
    re.search(rf"^## {heading}\n.*?^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
    for heading in ("Jobs", "Dead letters")
)

#: Those of the page.
JOB_ID = "5f3c0f1e2d4b4c6f8a7b9c0d1e2f3a4b"
LETTER_ID = "1764000000000-0"


@pytest.fixture
def run(own_mill):
    """Runs the commands of a block one by one, in a mill without workers; gives what each writes."""
    env = {**own_mill.env, "PATH": f"{Path(sys.executable).parent}:{own_mill.env['PATH']}"}

    def run_block(block, stdin=""):
        written = []
        for line in block.replace("ID…", JOB_ID).splitlines():
            done = subprocess.run(
                ["bash", "-c", line], env=env, input=stdin, capture_output=True, text=True, timeout=PATIENCE_S
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            written.append(done.stdout)
        return written

    return run_block


def test_jobs_are_listed_shown_cancelled_and_deleted(own_mill, run):
    with EmbeddingClient(own_mill.redis_url, "all-MiniLM-L6-v2", namespace=own_mill.namespace) as client:
        client.submit(TEXTS, job_id=JOB_ID)
        everything, queued, shown, _, _ = run(JOBS)
        assert JOB_ID in everything
        assert JOB_ID in queued
        assert "queued" in shown
        assert len(client.jobs.list()) == 0


def test_a_dead_letter_is_listed_shown_requeued_and_dropped(own_mill, run):
    keys = Keyspace(own_mill.namespace)
    with plain_redis(own_mill.redis_url) as server:
        server.xadd(keys.dead, {"l": dead_letter.pack(letter())}, id=LETTER_ID)
        listed, shown, requeued, _ = run(LETTERS, stdin=TEXTS[1])
        assert LETTER_ID in listed
        assert letter().sha256 in shown
        assert server.hget(keys.job(requeued.strip()), "state") == b"active"
        assert server.xlen(keys.dead) == 0
