"""Kill the reindexer, workers and the server at random moments: the sink ends up the same, byte for byte."""

import os
import random
import signal
import time
from contextlib import suppress

import pytest

from embedmill.protocol.keys import Keyspace
from embedmill_worker.cli.measure import corpus
from support import apps
from support.reindexer import Reindexer, files, write_jsonl
from support.servers import plain_redis, save

KINDS = ("reindexer", "child", "worker", "server")


@pytest.mark.parametrize(
    ("texts", "kills", "kinds", "module"),
    [
        # A lost worker is found dead after ten seconds: left to the soak.
        pytest.param(1_300, 3, ("reindexer", "child", "server"), "small_windows", id="small"),
        pytest.param(20_000, 20, KINDS, "embedmill_worker.cli", marks=pytest.mark.soak, id="large"),
    ],
)
def test_random_kills_change_no_byte_of_the_output(durable_mill, own_valkey, tmp_path, texts, kills, kinds, module):
    source = write_jsonl(tmp_path / "corpus.jsonl", corpus.short(texts), lang="id")
    durable_mill.start_worker(EMBEDMILL_CONCURRENCY="2")
    env = {**durable_mill.env, "PYTHONPATH": apps.FOLDER}
    began_s = time.monotonic()
    Reindexer(env, [source, "--to", tmp_path / "whole"], module).run()
    pause_s = (time.monotonic() - began_s) / kills

    rng = random.Random(texts)
    # Each kind at least once.
    plan = [kinds[n] if n < len(kinds) else rng.choice(kinds) for n in range(kills)]
    for round in range(kills):  # as many runs as it takes: one may be faster than its kills
        sink = tmp_path / f"killed-{round}"
        killed = Reindexer(env, [source, "--to", sink], module).start()
        while plan:
            time.sleep(pause_s * rng.uniform(0.3, 1.0))
            if killed.process.poll() is not None:
                break
            kill(plan.pop(0), killed, durable_mill, own_valkey)
        out, _ = killed.wait()
        assert f"{texts:,} rows" in out
        assert files(sink) == files(tmp_path / "whole")
        if not plan:
            break
    assert not plan, f"{round + 1} runs ended before {plan}"
    assert not list(tmp_path.glob("*.rejects.jsonl"))
    assert not jobs_left(own_valkey.url, durable_mill.namespace)


def kill(kind, reindexer, mill, valkey) -> None:
    """Kills one of them, and starts what does not start again by itself."""
    if kind == "reindexer":
        reindexer.kill()
        reindexer.start()
    elif kind == "child":
        with suppress(ProcessLookupError, IndexError):
            os.kill(random.choice(mill.workers[-1].children), signal.SIGKILL)
    elif kind == "worker":
        mill.workers[-1].kill()
        mill.start_worker(ready=False, EMBEDMILL_CONCURRENCY="2")
    else:
        save(valkey.url)  # or a window deleted a moment before lies there again
        valkey.kill()
        valkey.restart()


def jobs_left(redis_url: str, namespace: str) -> list[bytes]:
    """Keys of jobs that nobody will ask for."""
    with plain_redis(redis_url) as client:
        return list(client.scan_iter(Keyspace(namespace).job("reindex-*")))
