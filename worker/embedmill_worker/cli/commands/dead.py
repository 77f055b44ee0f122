"""The command ``embedmill dead``."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from embedmill.limits import MAX_TEXT_CHARS
from embedmill.safe.printable import printable
from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import LAYOUT, table

if TYPE_CHECKING:
    from embedmill.client import EmbeddingClient
    from embedmill.protocol.dead_letter import DeadLetter

#: Most bytes of a text in UTF-8.
MAX_TEXT_BYTES: Final = 4 * MAX_TEXT_CHARS

_EPILOG: Final = """\
  # list the texts that workers gave up, and why
  embedmill dead list
  # try one again, reading its text from a file
  embedmill dead requeue 1764000000000-0 --text-file text.txt

Exit codes: 0 success, 2 no dead letter has this id, or the text is missing or differs, 4 Redis does not answer.
"""

_LIST_EPILOG: Final = """\
  # the ten newest dead letters, for scripts
  embedmill dead list --limit 10 --json
"""

_SHOW_EPILOG: Final = """\
  # show everything but the text
  embedmill dead show 1764000000000-0
  # show the text as well, if the worker ran with EMBEDMILL_KEEP_DEAD_TEXTS=1
  embedmill dead show 1764000000000-0 --text
"""

_REQUEUE_EPILOG: Final = """\
  # the dead letter holds the text, because the worker ran with EMBEDMILL_KEEP_DEAD_TEXTS=1
  embedmill dead requeue 1764000000000-0
  # it does not: give the text, which must be the same to the byte
  embedmill dead requeue 1764000000000-0 --text-file text.txt
"""

_DROP_EPILOG: Final = """\
  # delete two dead letters, or all of them
  embedmill dead drop 1764000000000-0 1764000000001-0
  embedmill dead drop --all
"""


def add(commands: Any) -> None:
    """Add the command and its subcommands."""
    text = "list, show, requeue and drop dead letters: texts that workers gave up"
    parser = flags.command(commands, "dead", _list, help=text, epilog=_EPILOG)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = flags.command(actions, "list", _list, help="list the newest dead letters", epilog=_LIST_EPILOG)
    text = "most dead letters to list, the newest first (default: 100)"
    selection = listing.add_argument_group("selection")
    flags.flag(selection, "--limit", "EMBEDMILL_LIMIT", "N", text, type=flags.number, default="100")
    show = flags.command(actions, "show", _show, help="show a dead letter", epilog=_SHOW_EPILOG)
    text = "submit the text of a dead letter as a new job, print the job's id, and delete the letter"
    requeue = flags.command(actions, "requeue", _requeue, help=text, epilog=_REQUEUE_EPILOG)
    text = "file that holds the text, - for stdin (default: the text in the dead letter, if it was kept)"
    flags.flag(requeue.add_argument_group("input"), "--text-file", "EMBEDMILL_TEXT_FILE", "FILE", text)
    drop = flags.command(actions, "drop", _drop, help="delete dead letters", epilog=_DROP_EPILOG)
    selection = drop.add_argument_group("selection")
    selection.add_argument("ids", metavar="ID", nargs="*", help="ids of the dead letters")
    flags.switch(selection, "--all", "EMBEDMILL_DEAD_DROP_ALL", "delete all dead letters instead")
    for action in (show, requeue):
        action.add_argument("id", metavar="ID", help="id of the dead letter")
    for action in (listing, show, requeue, drop):
        flags.client_flags(action)
        output = flags.json_flag(action)
        if action is show:
            flags.switch(output, "--text", "EMBEDMILL_SHOW_TEXT", "print the text as well, if it was kept")


def _client(args: argparse.Namespace) -> closing[EmbeddingClient]:
    from embedmill.client import EmbeddingClient

    return closing(EmbeddingClient(args.redis_url, args.model, namespace=args.namespace))


def _list(args: argparse.Namespace) -> int:
    with _client(args) as client:
        letters = client.dead.list(limit=args.limit)
    if args.json:
        print(json.dumps([facts(letter) for letter in letters], indent=2))
        return 0
    rows = [
        (x.id, _when(x), x.reason, x.attempts, x.model, x.lane, x.job_id, _place(x), x.n_chars, x.sha256[:12])
        for x in letters
    ]
    table(("id", "at", "reason", "attempts", "model", "lane", "job", "text", "characters", "sha256"), rows)
    return 0


def _show(args: argparse.Namespace) -> int:
    with _client(args) as client:
        letter = client.dead.get(args.id)
    known = facts(letter, with_text=args.text)
    if args.json:
        print(json.dumps(known, indent=2))
        return 0
    text = known.pop("text", None)
    for name, value in known.items():
        print(f"{name}: {printable(str(value))}")
    if args.text:
        print()
        print("the text was not kept" if text is None else printable(text, keep=LAYOUT))
    return 0


def _requeue(args: argparse.Namespace) -> int:
    text = _text(args.text_file) if args.text_file else None
    with _client(args) as client:
        job = client.dead.requeue(args.id, text)
    print(json.dumps({"job_id": job.id}) if args.json else job.id)
    return 0


def _text(name: str) -> str:
    from embedmill.errors import InvalidRequestError

    with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as stream:
        data = stream.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidRequestError(
            "--text-file", f"the file has more than {MAX_TEXT_BYTES} bytes, more than any text; name another file"
        )
    return data.decode("utf-8", "surrogateescape")


def _drop(args: argparse.Namespace) -> int:
    from embedmill.errors import InvalidRequestError

    if bool(args.ids) == args.all:
        raise InvalidRequestError("dead drop", "name the ids of dead letters, or give --all, not both")
    with _client(args) as client:
        dropped = client.dead.drop_all() if args.all else sum(client.dead.drop(letter_id) for letter_id in args.ids)
    print(
        json.dumps({"dropped": dropped})
        if args.json
        else f"dropped {dropped:,} dead letter{'' if dropped == 1 else 's'}"
    )
    return 0


def facts(letter: DeadLetter, *, with_text: bool = False) -> dict[str, Any]:
    """Return a dead letter as JSON fields, the text only if ``with_text``."""
    from dataclasses import asdict

    known = asdict(letter)
    text = known.pop("text")
    known = {"id": known.pop("id"), "at_ms": letter.at_ms, **known, "is_text_kept": text is not None}
    return known | {"text": text} if with_text else known


def _when(letter: DeadLetter) -> str:
    try:
        return datetime.fromtimestamp(letter.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a user who can write to Redis can choose any id
        return "no date"


def _place(letter: DeadLetter) -> str:
    return f"chunk {letter.chunk}" if letter.index is None else str(letter.index)
