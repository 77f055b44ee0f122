"""The command ``embedmill status``."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any, Final

from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import say, table

if TYPE_CHECKING:
    from embedmill.status import QueueStatus

#: Most seconds of one wait, after which the address is read again.
LOOK_S: Final = 1.0

#: Most rows of each table; nobody reads more, and a user who can write to Redis could fill it with thousands.
MAX_ROWS: Final = 500

_EPILOG: Final = """\
  # show who works, and what waits
  embedmill status
  # in a script: continue as soon as a worker serves the model, fail after a minute
  embedmill status --wait 60 --json

Exit codes: 0 success, 4 Redis does not answer, 8 no worker serves the model after --wait.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "show the live workers and the work that waits in each lane"
    parser = flags.command(commands, "status", run, help=text, epilog=_EPILOG)
    queue = flags.client_flags(parser)
    text = "seconds to wait for a worker that serves the model, or any if no model is named (default: do not wait)"
    flags.flag(queue, "--wait", "EMBEDMILL_WAIT", "S", text, type=flags.seconds)
    flags.json_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Wait for a worker if asked to, and print the status."""
    from dataclasses import asdict

    from embedmill.settings import ClientSettings
    from embedmill.status import read_status, wait_for_worker
    from embedmill.urls import mask_url
    from embedmill_worker import exit_codes

    deadline_s = time.monotonic() + (args.wait or 0.0)
    while True:
        # Read again each time: an `embedmill up` that starts meanwhile changes the address.
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
    """Print the workers and the lanes as tables."""
    rows = [(w.name, w.model, w.fingerprint, w.state, str(w.pid), w.children) for w in status.workers]
    table(("worker", "model", "fingerprint", "state", "pid", "children"), rows, max_rows=MAX_ROWS)
    print()
    lanes = [
        (lane.model, lane.lane, lane.queue, lane.chunks, lane.texts, lane.tokens, f"{lane.oldest_age_s:.1f} s")
        for lane in status.lanes
    ]
    table(("model", "lane", "queue", "chunks", "texts", "tokens", "oldest"), lanes, max_rows=MAX_ROWS)
