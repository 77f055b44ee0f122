"""The command ``embedmill jobs``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import say, table

if TYPE_CHECKING:
    from embedmill.client import EmbeddingClient, Job
    from embedmill.jobs.listing import JobList
    from embedmill.protocol.records import JobStatus

STATES: Final = ("queued", "running", "done", "cancelled")

#: Most rows of the table; nobody reads more.
MAX_ROWS: Final = 1_000

_EPILOG: Final = """\
  # list what was submitted, the newest first
  embedmill jobs list
  # stop one job, and delete another with its vectors
  embedmill jobs cancel 5f3c0f1e2d4b4c6f8a7b9c0d1e2f3a4b
  embedmill jobs delete 0a1b2c3d4e5f60718293a4b5c6d7e8f9

Exit codes: 0 success, 2 no job has this id, 4 Redis does not answer.
"""

_LIST_EPILOG: Final = """\
  # the ten newest jobs that no worker has begun, for scripts
  embedmill jobs list --state queued --limit 10 --json

Finished jobs are found by a SCAN of all keys in Redis. Some are missing, and a line on stderr says so, if the user of
Redis may not SCAN or if there are more than a million keys.
"""

_SHOW_EPILOG: Final = """\
  # the status of a job, for scripts
  embedmill jobs show 5f3c0f1e2d4b4c6f8a7b9c0d1e2f3a4b --json
"""

_CANCEL_EPILOG: Final = """\
  # callers who wait for the job get an error; a finished job stays as it is
  embedmill jobs cancel 5f3c0f1e2d4b4c6f8a7b9c0d1e2f3a4b
"""

_DELETE_EPILOG: Final = """\
  # delete a job with its vectors, whether it is finished or not
  embedmill jobs delete 5f3c0f1e2d4b4c6f8a7b9c0d1e2f3a4b
"""


def add(commands: Any) -> None:
    """Add the command and its subcommands."""
    parser = flags.command(commands, "jobs", _list, help="list, show, cancel and delete jobs", epilog=_EPILOG)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = flags.command(actions, "list", _list, help="list the newest jobs", epilog=_LIST_EPILOG)
    selection = listing.add_argument_group("selection")
    text = "most jobs to list, the newest first (default: 100)"
    flags.flag(selection, "--limit", "EMBEDMILL_LIMIT", "N", text, type=flags.number, default="100")
    text = f"list only jobs that are {flags.alternatives(STATES)} (default: jobs in any state)"
    flags.flag(selection, "--state", "EMBEDMILL_STATE", "STATE", text, type=flags.one_of(STATES))
    show = flags.command(actions, "show", _show, help="show the status of a job", epilog=_SHOW_EPILOG)
    show.add_argument("id", metavar="ID", help="id of the job")
    text = "cancel jobs, so that workers skip what is left of them"
    cancel = flags.command(actions, "cancel", _cancel, help=text, epilog=_CANCEL_EPILOG)
    delete = flags.command(actions, "delete", _delete, help="delete jobs and their vectors", epilog=_DELETE_EPILOG)
    for action in (cancel, delete):
        action.add_argument("ids", metavar="ID", nargs="+", help="ids of the jobs")
    for action in (listing, show, cancel, delete):
        flags.client_flags(action)
        flags.json_flag(action)


def _client(args: argparse.Namespace) -> closing[EmbeddingClient]:
    from embedmill.client import EmbeddingClient

    return closing(EmbeddingClient(args.redis_url, args.model, namespace=args.namespace))


def _list(args: argparse.Namespace) -> int:
    with _client(args) as client:
        found = client.jobs.list(limit=args.limit, state=args.state)
    if args.json:
        jobs = [facts(status, at_s=found.at_s) for status in found]
        known = {"jobs": jobs, "is_cut": found.is_cut, "found": found.n_found, "unreadable": found.n_unreadable}
        print(json.dumps(known, indent=2))
    else:
        rows = [_row(status, found.at_s) for status in found]
        table(("id", "model", "lane", "state", "chunks", "texts", "submitted", "age"), rows, max_rows=MAX_ROWS)
    for line in _left_out(found):
        say(line)
    return 0


def _row(status: JobStatus, at_s: float) -> tuple[Any, ...]:
    chunks, texts = f"{status.chunks_done}/{status.chunks}", f"{status.texts_done}/{status.n_texts}"
    age = f"{max(0.0, at_s - status.submitted_at_s):.1f} s"
    return status.job_id, status.model, status.lane, status.state.value, chunks, texts, _when(status), age


def _left_out(found: JobList) -> list[str]:
    """Return a message for each reason why a list is incomplete."""
    lines = []
    if more := found.n_found - len(found):
        lines.append(f"{more:,} more jobs are not listed; raise --limit, or select a --state")
    if not found.is_complete:
        lines.append("some finished jobs may be missing, because not all keys of this Redis could be scanned")
    if found.n_unreadable:
        lines.append(f"{found.n_unreadable:,} jobs are not listed, because their records cannot be read")
    return lines


def _show(args: argparse.Namespace) -> int:
    from embedmill.errors import ResultExpiredError
    from embedmill_worker import exit_codes

    with _client(args) as client:
        try:
            known = facts(client.job(args.id).status())
        except ResultExpiredError:
            say(_unknown(args.id))
            return exit_codes.USAGE
    if args.json:
        print(json.dumps(known, indent=2))
    else:
        for name, value in known.items():
            print(f"{name}: {value}")
    return 0


def _cancel(args: argparse.Namespace) -> int:
    return _each(args, "cancelled", "was done before", _cancelled)


def _delete(args: argparse.Namespace) -> int:
    return _each(args, "deleted", "", lambda job: job.delete() or None)


def _cancelled(job: Job) -> bool | None:
    """Cancel a job; return whether it is cancelled, None if it does not exist."""
    from embedmill.errors import ResultExpiredError

    try:
        return job.cancel()
    except ResultExpiredError:
        return None


def _each(args: argparse.Namespace, done: str, not_done: str, end: Callable[[Job], bool | None]) -> int:
    """Apply ``end`` to each job and print the outcomes; an unknown id does not stop the others."""
    from embedmill_worker import exit_codes

    with _client(args) as client:
        jobs = {job_id: client.job(job_id) for job_id in args.ids}  # checks every id before the first job is ended
        outcomes = {job_id: end(job) for job_id, job in jobs.items()}
    named = {True: done, False: not_done, None: "unknown"}
    if args.json:
        print(json.dumps({job_id: named[outcome] for job_id, outcome in outcomes.items()}, indent=2))
    else:
        for job_id, outcome in outcomes.items():
            if outcome is not None:
                print(f"{job_id} {named[outcome]}")
    unknown = [job_id for job_id, outcome in outcomes.items() if outcome is None]
    for job_id in unknown:
        say(_unknown(job_id))
    return exit_codes.USAGE if unknown else exit_codes.OK


def _unknown(job_id: str) -> str:
    return (
        f"job {job_id} does not exist: it expired, was deleted, or belongs to another Redis or namespace; "
        "run `embedmill jobs list` to see the jobs that exist"
    )


def facts(status: JobStatus, *, at_s: float | None = None) -> dict[str, Any]:
    """Return a status as JSON fields, with the job's age if the time ``at_s`` is given."""
    from dataclasses import asdict

    known = asdict(status)
    known = {"id": known.pop("job_id"), **known, "state": status.state.value, "submitted_at": _when(status)}
    return known if at_s is None else known | {"age_s": round(max(0.0, at_s - status.submitted_at_s), 3)}


def _when(status: JobStatus) -> str:
    try:
        return datetime.fromtimestamp(status.submitted_at_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a user who can write to Redis can set any time
        return "no date"
