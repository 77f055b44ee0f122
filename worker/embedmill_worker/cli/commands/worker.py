"""``embedmill worker``."""

from __future__ import annotations

import argparse
import os
from typing import Any

from embedmill_worker.cli import flags

_EPILOG = """\
  # serve the default model to a Redis of your own
  embedmill worker --redis-url redis://redis.example:6379/0
  # serve a model in a folder, with two processes
  EMBEDMILL_MODEL=mine=/models/mine embedmill worker --concurrency 2

the same, from Celery's own command line: celery -A embedmill_worker.app worker
exit codes: 0 stopped as asked, 3 setting, 5 model cannot be loaded, 6 live workers serve another fingerprint,
10 it took no more work and ended itself, 11 it did not finish within its grace period
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "serve models until SIGTERM, which finishes the chunks under work"
    flags.worker_flags(flags.command(commands, "worker", run, help=text, epilog=_EPILOG))


def run(args: argparse.Namespace) -> int:
    """Become the worker: this process is replaced, so that signals and exit codes are the worker's own."""
    from embedmill_worker.cli.local.worker_process import worker_command
    from embedmill_worker.settings import WorkerSettings

    environment = flags.worker_environment(args)
    WorkerSettings.from_env(environment)
    command = worker_command(args.log_level)
    os.execve(command[0], command, environment)  # noqa: S606  no shell is wanted
