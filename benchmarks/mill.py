"""A whole embedmill on this machine for a measurement: Valkey, one worker, one client."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedmill import EmbeddingClient
from embedmill_worker.settings import DEFAULT_MODEL
from embedmill_worker.valkey import EmbeddedValkey


@dataclass(frozen=True, slots=True, kw_only=True)
class Mill:
    client: EmbeddingClient
    worker_pid: int
    ready_s: float


@contextmanager
def running(model: str = DEFAULT_MODEL, **environment: str) -> Iterator[Mill]:
    """Start all of it, and stop all of it."""
    with EmbeddedValkey(persistent=False) as server, tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "EMBEDMILL_REDIS_URL": server.url, "EMBEDMILL_MODEL": model, **environment}
        log = Path(folder) / "worker.log"
        began = time.perf_counter()
        command = [sys.executable, "-m", "celery", "-A", "embedmill_worker.app", "worker", "-l", "INFO"]
        with log.open("wb") as sink:
            worker = subprocess.Popen(command, env=env, stdout=sink, stderr=sink)
        try:
            client = EmbeddingClient(server.url, model.partition("=")[0])
            client.embed(["warm"], timeout_s=120)
            yield Mill(client=client, worker_pid=worker.pid, ready_s=time.perf_counter() - began)
        except BaseException:
            sys.stderr.write(log.read_text(errors="replace")[-4000:])
            raise
        finally:
            worker.terminate()
            worker.wait(30)


def tree_pss_mb(pid: int) -> float:
    """Give the proportional set size of a process and its children, MB."""
    import psutil

    process = psutil.Process(pid)
    return sum(p.memory_full_info().pss for p in [process, *process.children(recursive=True)]) / 1e6
