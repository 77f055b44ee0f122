"""The command line ``embedmill``. Modules here are light to import: what a command needs, it imports when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit code. The probe, which runs every few seconds, loads nothing of the others."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["health"]:
        from embedmill_worker.cli import health

        return health.main(given[1:])
    from embedmill_worker.cli import program

    return program.main(given)


__all__ = ["main"]
