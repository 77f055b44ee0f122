"""``embedmill health``: a probe for containers. Starts no Celery, reads no model and asks no Redis."""

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

_HELP = "say whether the worker of this container is well, from the file that it writes"
_EPILOG = f"""\
examples:
  # is it to be restarted? Redis being down is no reason
  embedmill health --live
  # does it take work?
  embedmill health --ready --json

the worker writes the file that {HEALTH_FILE_ENV} names every two seconds; both must name the same
exit codes: 0 well, 3 {HEALTH_FILE_ENV} is not set, 9 not well
"""


def add(commands: Any) -> None:
    """Add the command."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser("health", help=_HELP, epilog=_EPILOG, formatter_class=formatter)
    _flags(parser)
    parser.set_defaults(run=run)


def main(argv: Sequence[str]) -> int:
    """Run this command alone, without loading the others."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="embedmill health", description=_HELP, epilog=_EPILOG, formatter_class=formatter
    )
    _flags(parser)
    return run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Judge the file."""
    if not args.file:
        print(f"name the worker's health file with --file or {HEALTH_FILE_ENV}", file=sys.stderr)
        return exit_codes.SETTINGS
    probe = "live" if args.live else "ready"
    verdict = _judge(Path(args.file), probe)
    line = verdict.line.encode("unicode_escape").decode() if not verdict.line.isprintable() else verdict.line
    print(json.dumps({"probe": probe, "ok": verdict.is_well, "line": verdict.line}) if args.json else line)
    return exit_codes.OK if verdict.is_well else exit_codes.UNHEALTHY


def _judge(path: Path, probe: str) -> Verdict:
    try:
        found = health.read(path)
    except PermissionError as error:
        line = f"{path} cannot be read: {error.strerror}; probe as the worker's user, or let this one read it"
        return Verdict(is_well=False, line=line)
    if found is None:
        return Verdict(is_well=False, line=f"no worker has written {path}")
    if not health.is_running(found.pid):
        return Verdict(is_well=False, line=f"gone: there is no process {found.pid}")
    judge = health.judge_live if probe == "live" else health.judge_ready
    return judge(found, health.now_s())


def _flags(parser: argparse.ArgumentParser) -> None:
    probe = parser.add_mutually_exclusive_group()
    _switch(probe, "--live", "EMBEDMILL_LIVE", "well unless only a restart mends it")
    _switch(probe, "--ready", "EMBEDMILL_READY", "well if it takes work; the default")
    default = os.environ.get(HEALTH_FILE_ENV)
    parser.add_argument("--file", metavar="FILE", default=default, help=f"the worker's file [{HEALTH_FILE_ENV}]")
    _switch(parser, "--json", "EMBEDMILL_JSON", "write JSON")


def _switch(parser: Any, name: str, env: str, text: str) -> None:
    parser.add_argument(name, action="store_true", default=is_on(os.environ.get(env, "")), help=f"{text} [{env}]")
