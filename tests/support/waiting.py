"""Waiting for something that must come true, and not for ever."""

import select
import subprocess
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from embedmill.settings import ClientSettings
from embedmill.status import QueueStatus, read_status

T = TypeVar("T")

#: Seconds that anything here may take; generous, so that a busy machine fails no test.
PATIENCE_S = 120.0


def wait_until(condition: Callable[[], T], what: str = "", limit_s: float = PATIENCE_S) -> T:
    """Ask until the answer is true; return it."""
    deadline = time.monotonic() + limit_s
    while True:
        if answer := condition():
            return answer
        assert time.monotonic() < deadline, what or "it did not come true"
        time.sleep(0.01)


def status_of(settings: ClientSettings) -> QueueStatus:
    """Return the status of a queue, however busy the machine is."""
    return read_status(settings, timeout_s=PATIENCE_S)


def join(thread: threading.Thread) -> None:
    """Wait for a thread's end."""
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), f"{thread.name} has not ended after {PATIENCE_S} s"


def first_line(process: subprocess.Popen) -> str | bytes:
    """Return the first line that a process writes to its stdout; empty if it ends without one."""
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
    assert ready, f"nothing was written in {PATIENCE_S} s"
    return process.stdout.readline()
