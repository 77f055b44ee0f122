"""A temporary stack for the length of a block: a server, a worker and a client."""

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

#: Seconds that a worker may take to be ready once its model is fetched.
PATIENCE_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mill:
    """A running stack: its settings and its parts."""

    settings: ClientSettings
    client: EmbeddingClient
    worker: WorkerProcess
    server: EmbeddedValkey


@contextmanager
def temporary_stack(environment: Mapping[str, str]) -> Iterator[Mill]:
    """Run a server and a worker with these environment variables.

    Raises:
        ModelLoadError: the worker exited before it was ready; holds the end of its log.
        SettingsError: a setting is invalid, or no server is installed.
    """
    with tempfile.TemporaryDirectory(prefix="embedmill-") as folder, EmbeddedValkey(persistent=False) as server:
        # Temporary files of the worker are removed with the folder.
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
        ModelLoadError: it exited before it was ready; holds the end of its log.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not wait_for_worker(settings, timeout_s=0.5):
        if worker.exit_code is not None:
            raise ModelLoadError(
                settings.model or "",
                f"the worker exited with code {worker.exit_code}; the end of its log: {worker.last_words()}",
            )
        if time.monotonic() > deadline_s:
            raise ModelLoadError(settings.model or "", f"the worker was not ready after {PATIENCE_S:.0f} s")
