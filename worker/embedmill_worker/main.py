"""Entry point of ``embedmill worker``, without Celery's command line, whose imports take a third of the start."""

from __future__ import annotations

import argparse
import signal
import sys


def main() -> int:
    """Run the worker until it is stopped; return its exit code. Until Celery handles signals, each ends it at once."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job may ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = argparse.ArgumentParser(prog="embedmill worker")
    parser.add_argument("--loglevel", default="INFO")
    parser.add_argument("--hostname", required=True)
    args = parser.parse_args()

    from embedmill_worker.app import app  # noqa: PLC0415  reads the environment

    worker = app.Worker(hostname=args.hostname, loglevel=args.loglevel, quiet=True)
    worker.start()
    code: int | None = worker.exitcode
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
