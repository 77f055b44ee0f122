"""Waiting for something that must come true, and not for ever."""

import time
from collections.abc import Callable
from typing import TypeVar

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
