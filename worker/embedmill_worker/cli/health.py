"""``embedmill health``: a probe for containers, which loads neither Celery nor a model and does not ask Redis."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedmill_worker import exit_codes, health
from embedmill_worker.environment import is_on
from embedmill_worker.health import HEALTH_FILE_ENV, Verdict

_HELP = "check the health of the worker in this container"
_DESCRIPTION = "Check the health of the worker in this container."
_EPILOG = f"""\
examples:
  # liveness: must the worker be restarted? a Redis that is down does not count
  embedmill health --live
  # readiness: does the worker take work? for scripts, as JSON
  embedmill health --ready --json

The worker writes its health file every two seconds; {HEALTH_FILE_ENV} must name the same file for both.
Exit codes: 0 healthy, 3 {HEALTH_FILE_ENV} is not set, 9 not healthy.
"""


def add(commands: Any) -> None:
    """Add the command."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "health", help=_HELP, description=_DESCRIPTION, epilog=_EPILOG, formatter_class=formatter
    )
    _flags(parser)
    parser.set_defaults(run=run)


def main(argv: Sequence[str]) -> int:
    """Run this command without loading the others."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="embedmill health", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=formatter
    )
    _flags(parser)
    return run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Read the health file and print the probe result."""
    if not args.file:
        print(
            f"embedmill: no health file is named; set {HEALTH_FILE_ENV} as for the worker, or use --file FILE",
            file=sys.stderr,
        )
        return exit_codes.SETTINGS
    probe = "live" if args.live else "ready"
    result = _probe(Path(args.file), probe)
    line = result.line.encode("unicode_escape").decode() if not result.line.isprintable() else result.line
    print(json.dumps({"probe": probe, "ok": result.is_well, "line": result.line}) if args.json else line)
    return exit_codes.OK if result.is_well else exit_codes.UNHEALTHY


def _probe(path: Path, probe: str) -> Verdict:
    try:
        found = health.read(path)
    except PermissionError as error:
        line = f"{path} cannot be read: {error.strerror}; run the probe as the worker's user, or make it readable"
        return Verdict(is_well=False, line=line)
    if found is None:
        return Verdict(is_well=False, line=f"no worker has written {path}")
    if not health.is_running(found.pid):
        return Verdict(is_well=False, line=f"gone: the worker's process {found.pid} does not run")
    check = health.judge_live if probe == "live" else health.judge_ready
    return check(found, health.now_s())


def _flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("probe")
    probe = group.add_mutually_exclusive_group()
    _switch(probe, "--live", "EMBEDMILL_LIVE", "fail only if the worker must be restarted")
    _switch(probe, "--ready", "EMBEDMILL_READY", "fail unless the worker takes work; this is the default")
    default = os.environ.get(HEALTH_FILE_ENV)
    text = f"file that the worker writes its health to (required) [{HEALTH_FILE_ENV}]"
    group.add_argument("--file", metavar="FILE", default=default, help=text)
    _switch(parser.add_argument_group("output"), "--json", "EMBEDMILL_JSON", "print JSON instead of text")


def _switch(parser: Any, name: str, env: str, text: str) -> None:
    parser.add_argument(name, action="store_true", default=is_on(os.environ.get(env, "")), help=f"{text} [{env}]")
