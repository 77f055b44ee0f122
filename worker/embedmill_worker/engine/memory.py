"""The heap of a process that is about to be forked."""

from __future__ import annotations

import ctypes


def release_free_memory() -> None:
    """Give back what loading left behind. Only glibc can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
