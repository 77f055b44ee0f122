"""The command line ``embedmill``. Modules here are light to import: what a command needs, it imports when it runs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. The probe, which runs every few seconds, loads nothing of the others."""
    given = sys.argv[1:] if argv is None else argv
    with _ended_by_interrupt():
        if given[:1] == ["health"]:
            from embedmill_worker.cli import health

            return health.main(given[1:])
        from embedmill_worker.cli import dispatch

    return dispatch.main(given)


@contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once, as other programs: half a second of modules would end in a traceback."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler:  # somebody else's, or ignored in the background
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


__all__ = ["main"]
