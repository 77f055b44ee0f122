"""A real mill: the session's Valkey, and workers as a user starts them."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from embedmill.settings import ClientSettings
from embedmill_worker.cli.local.die_with_parent import tethered
from support.gateway import Gateway
from support.gateway import start as start_gateway
from support.waiting import status_of

#: Seconds that any one thing here may take; generous, so that a busy machine fails no test.
PATIENCE_S = 120.0


@dataclass
class WorkerHandle:
    """A worker's process tree."""

    process: subprocess.Popen
    env: dict[str, str]
    log_path: Path

    @property
    def pid(self) -> int:
        """Its main process."""
        return self.process.pid

    @property
    def children(self) -> list[int]:
        """The processes that embed."""
        return [child.pid for child in psutil.Process(self.pid).children()]

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text(errors="replace")

    def wait_ready(self) -> "WorkerHandle":
        """Waits until it says in Redis that it takes work."""
        settings = ClientSettings.from_env(environ=self.env)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the worker ended with {self.process.returncode}:\n{self.log}"
            if any(w.pid == self.pid and w.state == "ready" for w in status_of(settings).workers):
                return self
            time.sleep(0.05)
        raise AssertionError(f"the worker was not ready after {PATIENCE_S} s:\n{self.log}")

    def stop(self) -> int:
        """Asks it to finish what it has begun; gives its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Kills the main process and its children, as a lost host does."""
        victims = [self.pid, *self.children]
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, sig)
        self.process.wait(PATIENCE_S)


@dataclass
class Mill:
    """Where a running mill is, and how to start more workers."""

    redis_url: str
    namespace: str
    #: Environment for processes that use it.
    env: dict[str, str]
    folder: Path
    workers: list[WorkerHandle] = field(default_factory=list)

    @property
    def worker(self) -> WorkerHandle:
        """The first worker. Whoever stops it starts another one."""
        return self.workers[0]

    def start_worker(
        self,
        *,
        ready: bool = True,
        app: str = "embedmill_worker.app",
        log_level: str = "INFO",
        within: Callable[[list[str]], list[str]] = list,
        **env: str,
    ) -> WorkerHandle:
        """Starts a worker whose environment differs from the mill's by `env`; it ends with the mill.

        `within` makes the command run elsewhere, such as in a namespace, as the same process.
        """
        merged = {**self.env, **env}
        log_path = self.folder / f"worker-{len(self.workers)}.log"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", log_level]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                within(tethered(command)),
                env=merged,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        handle = WorkerHandle(process=process, env=merged, log_path=log_path)
        self.workers.append(handle)
        return handle.wait_ready() if ready else handle


def new_mill(redis_url: str, data_dir: Path, folder: Path) -> Mill:
    """A mill without workers in a namespace of its own."""
    namespace = "t" + secrets.token_hex(6)
    env = {
        **os.environ,
        "EMBEDMILL_REDIS_URL": redis_url,
        "EMBEDMILL_NAMESPACE": namespace,
        "EMBEDMILL_DATA_DIR": str(data_dir),
        "EMBEDMILL_FILES_DIR": str(folder / "files"),
    }
    return Mill(redis_url=redis_url, namespace=namespace, env=env, folder=folder)


def close(mill: Mill) -> None:
    """End all its workers as a lost host would: a stop in order takes each more than a second."""
    for worker in mill.workers:
        with suppress(psutil.NoSuchProcess):
            if worker.process.poll() is None:
                worker.kill()


@pytest.fixture(scope="session")
def mill(valkey, data_dir) -> Iterator[Mill]:
    """A mill with one worker of the default model, shared by all tests that leave it as it is."""
    with tempfile.TemporaryDirectory() as folder:
        shared = new_mill(valkey.url, data_dir, Path(folder))
        try:
            shared.start_worker()
            yield shared
        finally:
            close(shared)


@pytest.fixture
def own_mill(valkey, data_dir, tmp_path) -> Iterator[Mill]:
    """A mill for one test alone, on the shared server, without workers yet."""
    own = new_mill(valkey.url, data_dir, tmp_path)
    try:
        yield own
    finally:
        close(own)


@pytest.fixture(scope="module")
def module_mill(valkey, data_dir) -> Iterator[Mill]:
    """A mill with one worker for the tests of one module, which may do their worst to it."""
    with tempfile.TemporaryDirectory() as folder:
        own = new_mill(valkey.url, data_dir, Path(folder))
        try:
            own.start_worker(EMBEDMILL_CONCURRENCY="1")
            yield own
        finally:
            close(own)


@pytest.fixture
def durable_mill(own_valkey, data_dir, tmp_path) -> Iterator[Mill]:
    """A mill on a server of its own that a test may kill and restart."""
    own = new_mill(own_valkey.url, data_dir, tmp_path)
    try:
        yield own
    finally:
        close(own)


@pytest.fixture
def make_mill(data_dir, tmp_path) -> Iterator[Callable[[str], Mill]]:
    """Makes mills without workers on servers that the test starts itself."""
    made: list[Mill] = []

    def make(redis_url: str) -> Mill:
        made.append(new_mill(redis_url, data_dir, tmp_path))
        return made[-1]

    try:
        yield make
    finally:
        for mill in made:
            close(mill)


@pytest.fixture(scope="session")
def gateway(mill) -> Iterator[Gateway]:
    """A gateway before the shared mill, without keys, shared by all tests that leave it as it is."""
    with tempfile.TemporaryDirectory() as folder:
        shared = start_gateway(mill.env, Path(folder))
        yield shared
        shared.stop()


@pytest.fixture
def make_gateway(tmp_path) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways for one test: `make_gateway(mill.env, "--max-wait", "0", EMBEDMILL_API_KEYS="…")`."""
    made: list[Gateway] = []

    def make(env: dict[str, str], *arguments: str, **options) -> Gateway:
        made.append(start_gateway(env, tmp_path, *arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()
