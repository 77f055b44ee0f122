"""The command line ``embedmill``. Its modules are light to import: a command imports what it needs when it runs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. ``health``, which probes run often, loads no other command."""
    given = sys.argv[1:] if argv is None else argv
    with _ended_by_interrupt():
        if given[:1] == ["health"]:
            from embedmill_worker.cli import health

            return health.main(given[1:])
        from embedmill_worker.cli import dispatch

    return dispatch.main(given)


@contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """End the process at once on Ctrl-C while modules load, which takes half a second, instead of with a traceback."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler:  # the caller's own, or ignored because this is a background job
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


__all__ = ["main"]
