"""A whole mill for as long as a block runs: throw-away server, one worker, one client."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from embedmill.client import EmbeddingClient
from embedmill.errors import ModelLoadError
from embedmill.settings import ClientSettings
from embedmill.status import wait_for_worker
from embedmill_worker.cli.local.server import EmbeddedValkey
from embedmill_worker.cli.local.worker_process import WorkerProcess

#: Seconds that a worker may take to be ready once its model is here.
PATIENCE_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mill:
    """Where it is, and its parts."""

    settings: ClientSettings
    client: EmbeddingClient
    worker: WorkerProcess
    server: EmbeddedValkey


@contextmanager
def temporary_stack(environment: Mapping[str, str]) -> Iterator[Mill]:
    """Run a server and a worker of its own in this environment.

    Raises:
        ModelLoadError: the worker ended instead; holds its last words.
        SettingsError: a value that cannot work, or no server is installed.
    """
    with tempfile.TemporaryDirectory(prefix="embedmill-") as folder, EmbeddedValkey(persistent=False) as server:
        # Whatever the worker puts aside goes with the folder.
        own = {**environment, "EMBEDMILL_REDIS_URL": server.url, "TMPDIR": folder}
        settings = ClientSettings.from_env(environ=own)
        with (
            WorkerProcess(own, log=Path(folder) / "worker.log") as worker,
            EmbeddingClient(server.url, settings.model, namespace=settings.namespace) as client,
        ):
            wait_ready(settings, worker)
            yield Mill(settings=settings, client=client, worker=worker, server=server)


def wait_ready(settings: ClientSettings, worker: WorkerProcess) -> None:
    """Wait until the worker takes work.

    Raises:
        ModelLoadError: it ended instead; holds its last words.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not wait_for_worker(settings, timeout_s=0.5):
        if worker.exit_code is not None:
            raise ModelLoadError(settings.model or "", f"the worker ended; it said: {worker.last_words()}")
        if time.monotonic() > deadline_s:
            raise ModelLoadError(settings.model or "", f"the worker was not ready after {PATIENCE_S:.0f} s")
