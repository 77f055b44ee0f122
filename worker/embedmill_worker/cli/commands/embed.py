"""The command ``embedmill embed``."""

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
  # compute a vector for each line of a file
  embedmill embed corpus.txt --output vectors.npy
  # read JSONL from stdin, and write JSONL to stdout
  jq -c '{text: .body}' articles.json | embedmill embed --format jsonl > vectors.jsonl
  # keep 256 components as 16-bit floats, and reject texts that are too long instead of truncating them
  embedmill embed corpus.txt --dimensions 256 --dtype float16 --no-truncate --output vectors.npy

Lines of output are {"index": 0, "embedding": […]} or {"index": 0, "rejected": "too_long", "detail": "…"}.
Exit codes: 0 success, 4 Redis does not answer, 7 some texts were rejected and the others were embedded, 8 timeout,
12 a file could not be read, or only in part.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "embed the texts of files through the queue"
    parser = flags.command(commands, "embed", run, help=text, epilog=_EPILOG)
    source, vectors, output = map(parser.add_argument_group, ("input", "vectors", "output"))

    def flag(group: Any, name: str, metavar: str, text: str, **options: Any) -> None:
        flags.flag(group, name, reindex.variable(name), metavar, text, **options)

    source.add_argument("files", metavar="FILE", nargs="*", help="files to read, - for stdin (default: stdin)")
    flags.reading_flags(source, flags.Formats())
    text = "field that holds the text, or a path to it such as doc.body (default: text)"
    flag(source, "--field", "NAME", text, default="text")
    flag(source, "--text-field", "NAME", "the same as --field, by its name in reindex (default: that of --field)")
    text = "role of the texts, which selects the model's prefix: query or passage (default: no prefix)"
    flag(vectors, "--input-type", "TYPE", text, type=flags.one_of(flags.INPUT_TYPES))
    flags.vector_flags(vectors)
    text = "file to write, which ends in .npy or .jsonl (default: JSONL to stdout)"
    flag(output, "--output", "FILE", text)
    flags.switch(output, "--with-text", "EMBEDMILL_WITH_TEXT", "repeat each text in JSONL output")
    queue = flags.client_flags(parser)
    text = f"lane to submit to: {flags.alternatives(flags.LANES)} (default: bulk)"
    flag(queue, "--lane", "LANE", text, type=flags.one_of(flags.LANES), default="bulk")
    text = "seconds for the whole command, after which the work is cancelled (default: no limit)"
    flag(queue, "--timeout", "S", text, type=flags.seconds)


def run(args: argparse.Namespace) -> int:
    """Embed all texts; Ctrl-C cancels the jobs that are running."""
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
        # A progress bar between lines of output would be unreadable.
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
    say(f"{rejected.total():,} of {count:,} texts were rejected ({reasons})")
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
            raise InvalidRequestError("FILE", f"{path} is a folder; use embedmill reindex, which reads folders")
        if args.output and _is_same(path, Path(args.output)):
            raise InvalidRequestError(
                "--output", f"{path} is also an input file, and would be overwritten; name another file"
            )
    return Texts(
        paths, form=args.format, key=args.text_field or args.field, delimiter=args.delimiter, encoding=args.encoding
    )


def _is_same(source: str, output: Path) -> bool:
    """Return whether a source (- for stdin) and the output are the same file, under any name or link."""
    try:
        read = os.fstat(sys.stdin.fileno()) if source == "-" else Path(source).stat()
        return os.path.samestat(read, output.stat())
    except (OSError, ValueError):  # one of them does not exist, or stdin is not a file
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
        raise InvalidRequestError("--output", f"{path.name} does not end in .npy or .jsonl; name such a file")
    file = stack.enter_context(replacing(path))
    if path.suffix == ".npy":
        return NpyFile(file, Dtype.parse(args.dtype))
    return JsonLines(io.TextIOWrapper(file, encoding="utf-8", write_through=True), with_text=args.with_text)
