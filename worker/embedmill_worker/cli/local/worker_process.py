"""Workers and gateways as child processes that end with this process."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from embedmill_worker.cli.local.die_with_parent import tethered

#: Module that a client-only installation lacks.
ENGINE_MODULE: Final = "onnxruntime"


def worker_command(log_level: str) -> list[str]:
    """Return the command that starts a worker whose name contains this process's id.

    Raises:
        ModuleNotFoundError: the worker's dependencies are not installed.
    """
    if importlib.util.find_spec(ENGINE_MODULE) is None:
        raise ModuleNotFoundError(ENGINE_MODULE, name=ENGINE_MODULE)
    warning = "ignore:You're running the worker with superuser privileges"
    python = [sys.executable, "-P", "-W", warning, "-m", "embedmill_worker.main"]
    return [*python, "--loglevel", log_level, "--hostname", f"embedmill-{os.getpid()}@{socket.gethostname()}"]


def gateway_command(log_level: str, *, port: int, grpc_port: int) -> list[str]:
    """Return the command that starts the gateway on loopback."""
    python = [sys.executable, "-P", "-m", "embedmill_worker.cli", "serve", "--host", "127.0.0.1"]
    return [*python, "--port", str(port), "--grpc-port", str(grpc_port), "--log-level", log_level]


class ChildProcess:
    """A process in a session of its own, so that a terminal's Ctrl-C reaches only this process, which then stops it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, log: Path | None = None) -> None:
        """Store what ``start`` needs; ``log`` is the file for its output, None for this process's stderr."""
        self._command = command
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Process id of its main process."""
        return self._started().pid

    @property
    def exit_code(self) -> int | None:
        """Exit code of the worker, None while it runs."""
        return self._started().poll()

    def start(self) -> None:
        """Start it."""
        output = sys.stderr.fileno() if self._log is None else os.open(self._log, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            self._process = subprocess.Popen(
                tethered(self._command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            if self._log is not None:
                os.close(output)

    def wait(self, timeout_s: float) -> int | None:
        """Wait until the worker exits; return its exit code, or None after ``timeout_s``."""
        try:
            return self._started().wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> int:
        """Stop the worker after its running chunks; return its exit code."""
        process = self._started()
        if process.poll() is None:
            process.terminate()
        return process.wait()

    def kill(self) -> None:
        """Kill the worker and its child processes; do nothing if they have exited."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def last_words(self, lines: int = 5) -> str:
        """Return the last lines of the worker's log file."""
        text = self._log.read_text(errors="replace") if self._log is not None else ""
        return "\n".join(text.splitlines()[-lines:])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the process is not started")
        return self._process


class WorkerProcess(ChildProcess):
    """A worker."""

    def __init__(self, environment: Mapping[str, str], *, log_level: str = "INFO", log: Path | None = None) -> None:
        """Take what ``start`` needs.

        Raises:
            ModuleNotFoundError: the worker's parts are not installed.
        """
        super().__init__(worker_command(log_level), environment, log=log)
