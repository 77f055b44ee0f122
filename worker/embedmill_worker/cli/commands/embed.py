"""``embedmill embed``."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from embedmill_worker.cli import flags
from embedmill_worker.cli.commands import reindex
from embedmill_worker.cli.terminal import progress, say

if TYPE_CHECKING:
    from embedmill_worker.cli.commands.embed_files import Output, Texts
    from embedmill_worker.cli.commands.embed_queue import Bulk

_EPILOG: Final = """\
  # a vector for every line
  embedmill embed corpus.txt --output vectors.npy
  # JSONL in, JSONL out
  jq -c '{text: .body}' articles.json | embedmill embed --format jsonl > vectors.jsonl
  # 256 components as 16-bit floats; reject texts that are too long instead of cutting them
  embedmill embed corpus.txt --dimensions 256 --dtype float16 --no-truncate --output vectors.npy

A line of output is {"index": 0, "embedding": […]} or {"index": 0, "rejected": "too_long", "detail": "…"}.
exit codes: 0, 4 Redis does not answer, 7 some texts were rejected and the others embedded, 8 not done in time, 12 a
file could not be read, or only in part
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = flags.command(commands, "embed", run, help="embed the texts of files through the queue", epilog=_EPILOG)
    parser.add_argument("files", metavar="FILE", nargs="*", help="files to read, - for stdin; default stdin")
    flags.client_flags(parser)

    def flag(name: str, metavar: str, text: str, **options: Any) -> None:
        flags.flag(parser, name, reindex.variable(name), metavar, text, **options)

    flag("--format", "FORMAT", "default auto", choices=flags.Formats(), default="auto")
    text = "field that holds the text, or its path as in doc.body; default text"
    flag("--field", "NAME", text, default="text")
    flag("--text-field", "NAME", "the same, by the name that it has in reindex")
    flag("--delimiter", "CHAR", "between the fields of CSV, as ';' or tab; default a comma, in .tsv a tab")
    flag("--encoding", "NAME", "of text without a byte order mark, as latin-1; default UTF-8")
    flag("--output", "FILE", "write to FILE, which ends in .npy or .jsonl; default JSONL to stdout")
    flags.switch(parser, "--with-text", "EMBEDMILL_WITH_TEXT", "repeat the text in JSONL output")
    flag("--input-type", "TYPE", "query or passage: the model's prefix", type=flags.one_of(flags.INPUT_TYPES))
    flag("--dimensions", "N", "components to keep; default all", type=flags.number)
    flag("--dtype", "DTYPE", f"{', '.join(flags.DTYPES)}", type=flags.one_of(flags.DTYPES), default="float32")
    text = "reject texts longer than the model reads"
    flags.switch(parser, "--no-truncate", "EMBEDMILL_NO_TRUNCATE", text)
    flag("--lane", "LANE", "interactive or bulk; default bulk", type=flags.one_of(flags.LANES), default="bulk")
    flag("--timeout", "S", "seconds for all of it, then the work is cancelled; default none", type=flags.seconds)


def run(args: argparse.Namespace) -> int:
    """Embed everything; Ctrl-C cancels what is under work."""
    from embedmill.client import EmbeddingClient
    from embedmill_worker import exit_codes
    from embedmill_worker.cli.commands.embed_queue import Bulk

    options = {
        "input_type": args.input_type,
        "dimensions": args.dimensions,
        "dtype": args.dtype,
        "truncate": not args.no_truncate,
        "lane": args.lane,
    }
    rejected: Counter[str] = Counter()
    with ExitStack() as stack:
        texts = _texts(args)
        output = _output(args, stack)
        client = stack.enter_context(EmbeddingClient(args.redis_url, args.model, namespace=args.namespace))
        # A bar among the lines of output would be unreadable.
        is_shown = args.output is not None or not sys.stdout.isatty()
        bar = stack.enter_context(progress("embedding", is_shown=is_shown))
        bulk = stack.enter_context(Bulk(client, options, timeout_s=args.timeout, progress=bar))
        count = _embed_all(bulk, texts, output, rejected)
        output.finish()
    for reason in texts.unread:
        say(reason)
    if not rejected:
        return exit_codes.UNREADABLE if texts.unread else exit_codes.OK
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(rejected.items()))
    say(f"{rejected.total()} of {count} texts were rejected ({reasons})")
    return exit_codes.UNREADABLE if texts.unread else exit_codes.REJECTED


def _embed_all(bulk: Bulk, texts: Texts, output: Output, rejected: Counter[str]) -> int:
    from embedmill_worker.cli.commands.embed_files import windows

    count = 0
    for window, reply in bulk.run(windows(texts)):
        output.write(window.start, window.texts, reply.vectors, reply.rejected)
        rejected.update(str(r.reason) for r in reply.rejected)
        count += len(window.texts)
    return count


def _texts(args: argparse.Namespace) -> Texts:
    from embedmill.errors import InvalidRequestError
    from embedmill_worker.cli.commands.embed_files import Texts

    paths: Sequence[str] = args.files or ["-"]
    for path in paths:
        if path != "-" and Path(path).is_dir():
            raise InvalidRequestError("FILE", f"{path} is a folder; embedmill reindex reads folders")
        if args.output and _is_same(path, Path(args.output)):
            raise InvalidRequestError("output", f"{path} is read, too, and would be replaced; name another file")
    return Texts(
        paths, form=args.format, key=args.text_field or args.field, delimiter=args.delimiter, encoding=args.encoding
    )


def _is_same(source: str, output: Path) -> bool:
    """Return whether a source, - for stdin, is the file that is written, under whatever name or link."""
    try:
        read = os.fstat(sys.stdin.fileno()) if source == "-" else Path(source).stat()
        return os.path.samestat(read, output.stat())
    except (OSError, ValueError):  # one of them is not there, or stdin is no file
        return False


def _output(args: argparse.Namespace, stack: ExitStack) -> Output:
    import io

    from embedmill.errors import InvalidRequestError
    from embedmill.protocol.vectors import Dtype
    from embedmill_worker.cli.commands.embed_files import JsonLines, NpyFile, replacing

    if args.output is None:
        return JsonLines(sys.stdout, with_text=args.with_text)
    path = Path(args.output)
    if path.suffix not in (".npy", ".jsonl"):
        raise InvalidRequestError("output", f"{path.name} ends neither in .npy nor in .jsonl")
    file = stack.enter_context(replacing(path))
    if path.suffix == ".npy":
        return NpyFile(file, Dtype.parse(args.dtype))
    return JsonLines(io.TextIOWrapper(file, encoding="utf-8", write_through=True), with_text=args.with_text)
