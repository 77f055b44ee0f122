"""The command ``embedmill worker``."""

from __future__ import annotations

import argparse
import os
from typing import Any

from embedmill_worker.cli import flags

_EPILOG = """\
  # serve the default model from a Redis of your own
  embedmill worker --redis-url redis://redis.example:6379/0
  # serve the model in a folder, with two child processes
  EMBEDMILL_MODEL=mine=/models/mine embedmill worker --concurrency 2

Celery's own command line starts the same worker: celery -A embedmill_worker.app worker
Exit codes: 0 stopped as asked, 3 invalid setting, 5 a model cannot be loaded, 6 live workers serve the model with
another fingerprint, 10 the worker stalled and exited, 11 it did not finish within its grace period.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "run a worker until SIGTERM, which lets running chunks finish"
    flags.worker_flags(flags.command(commands, "worker", run, help=text, epilog=_EPILOG))


def run(args: argparse.Namespace) -> int:
    """Replace this process by the worker, so that signals and exit codes are the worker's own."""
    from embedmill_worker.cli.local.worker_process import worker_command
    from embedmill_worker.settings import WorkerSettings

    environment = flags.worker_environment(args)
    WorkerSettings.from_env(environment)
    command = worker_command(args.log_level)
    os.execve(command[0], command, environment)  # noqa: S606  no shell is wanted
