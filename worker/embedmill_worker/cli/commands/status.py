"""``embedmill status``."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any, Final

from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import say, table

if TYPE_CHECKING:
    from embedmill.status import QueueStatus

#: Seconds of waiting in one place.
LOOK_S: Final = 1.0

#: Lines of each table: nobody reads more, and whoever can write to Redis could have thousands shown.
MAX_ROWS: Final = 500

_EPILOG: Final = """\
  # who works, and what waits
  embedmill status
  # in a script: go on as soon as a worker serves the model, give up after a minute
  embedmill status --wait 60 --json

exit codes: 0, 4 Redis does not answer, 8 no worker serves the model after --wait
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = flags.command(commands, "status", run, help="show the live workers and what waits", epilog=_EPILOG)
    flags.client_flags(parser)
    text = "wait so many seconds for a worker that serves the model (any, if none is named)"
    flags.flag(parser, "--wait", "EMBEDMILL_WAIT", "S", text, type=flags.seconds)
    flags.switch(parser, "--json", "EMBEDMILL_JSON", "write JSON")


def run(args: argparse.Namespace) -> int:
    """Show the status."""
    from dataclasses import asdict

    from embedmill.settings import ClientSettings
    from embedmill.status import read_status, wait_for_worker
    from embedmill.urls import mask_url
    from embedmill_worker import exit_codes

    deadline_s = time.monotonic() + (args.wait or 0.0)
    while True:
        # Read anew each time: an `embedmill up` that begins meanwhile says then where it listens.
        settings = ClientSettings.from_env(args.redis_url, args.model, args.namespace)
        left_s = deadline_s - time.monotonic()
        if args.wait is None or wait_for_worker(settings, timeout_s=min(LOOK_S, max(0.0, left_s))):
            break
        if left_s <= LOOK_S:
            where = mask_url(settings.redis_url)
            say(f"no worker serves {settings.model or 'any model'} at {where} after {args.wait:g} s")
            return exit_codes.TIMEOUT
    status = read_status(settings)
    if args.json:
        print(json.dumps(asdict(status), indent=2))
    else:
        show(status)
    return exit_codes.OK


def show(status: QueueStatus) -> None:
    """Write both tables."""
    rows = [(w.name, w.model, w.fingerprint, w.state, str(w.pid), w.children) for w in status.workers]
    table(("worker", "model", "fingerprint", "state", "pid", "children"), rows, max_rows=MAX_ROWS)
    print()
    lanes = [
        (lane.model, lane.lane, lane.queue, lane.chunks, lane.texts, lane.tokens, f"{lane.oldest_age_s:.1f} s")
        for lane in status.lanes
    ]
    table(("model", "lane", "queue", "chunks", "texts", "tokens", "oldest"), lanes, max_rows=MAX_ROWS)
