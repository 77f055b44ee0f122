"""``embedmill embed``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from embedmill_worker.cli import flags
from embedmill_worker.cli.inputs import FORMATS, Unreadable, read, windows
from embedmill_worker.cli.terminal import progress, say

if TYPE_CHECKING:
    from embedmill_worker.cli.bulk import Bulk
    from embedmill_worker.cli.outputs import Output

_EPILOG: Final = """\
  # a vector for every line
  embedmill embed corpus.txt --output vectors.npy
  # JSONL in, JSONL out
  jq -c '{text: .body}' articles.json | embedmill embed --format jsonl > vectors.jsonl
  # 256 components as 16-bit floats; reject texts that are too long instead of cutting them
  embedmill embed corpus.txt --dimensions 256 --dtype float16 --no-truncate --output vectors.npy

A line of output is {"index": 0, "embedding": […]} or {"index": 0, "rejected": "too_long", "detail": "…"}.
exit codes: 0, 4 Redis does not answer, 7 some texts were rejected and the others embedded, 8 not done in time
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = flags.command(commands, "embed", run, help="embed lines or JSONL through the queue", epilog=_EPILOG)
    parser.add_argument("files", metavar="FILE", nargs="*", help="files to read, - for stdin; default stdin")
    flags.client_flags(parser)

    def flag(name: str, metavar: str, text: str, **options: Any) -> None:
        flags.flag(parser, name, "EMBEDMILL_" + name[2:].replace("-", "_").upper(), metavar, text, **options)

    flag("--format", "FORMAT", f"{', '.join(FORMATS)}; default auto", type=flags.one_of(*FORMATS), default="auto")
    flag("--field", "NAME", "field of a JSONL object that holds the text; default text", default="text")
    flag("--output", "FILE", "write to FILE, which ends in .npy or .jsonl; default JSONL to stdout")
    flags.switch(parser, "--with-text", "EMBEDMILL_WITH_TEXT", "repeat the text in JSONL output")
    flag("--input-type", "TYPE", "query or passage: the model's prefix", type=flags.one_of(*flags.INPUT_TYPES))
    flag("--dimensions", "N", "components to keep; default all", type=flags.number)
    flag("--dtype", "DTYPE", f"{', '.join(flags.DTYPES)}", type=flags.one_of(*flags.DTYPES), default="float32")
    text = "reject texts longer than the model reads"
    flags.switch(parser, "--no-truncate", "EMBEDMILL_NO_TRUNCATE", text)
    flag("--lane", "LANE", "interactive or bulk; default bulk", type=flags.one_of(*flags.LANES), default="bulk")
    flag("--timeout", "S", "seconds for all of it, then the work is cancelled; default none", type=flags.seconds)


def run(args: argparse.Namespace) -> int:
    """Embed everything; Ctrl-C cancels what is under work."""
    from embedmill.client import EmbeddingClient
    from embedmill_worker import exit_codes
    from embedmill_worker.cli.bulk import Bulk

    options = {
        "input_type": args.input_type,
        "dimensions": args.dimensions,
        "dtype": args.dtype,
        "truncate": not args.no_truncate,
        "lane": args.lane,
    }
    rejected: Counter[str] = Counter()
    with ExitStack() as stack:
        output = _output(args, stack)
        client = stack.enter_context(EmbeddingClient(args.redis_url, args.model, namespace=args.namespace))
        # A bar among the lines of output would be unreadable.
        is_shown = args.output is not None or not sys.stdout.isatty()
        bar = stack.enter_context(progress("embedding", is_shown=is_shown))
        bulk = stack.enter_context(Bulk(client, options, timeout_s=args.timeout, progress=bar))
        count = _embed_all(bulk, _texts(args, stack), output, rejected)
        output.finish()
    if not rejected:
        return exit_codes.OK
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(rejected.items()))
    say(f"{rejected.total()} of {count} texts were rejected ({reasons})")
    return exit_codes.REJECTED


def _embed_all(bulk: Bulk, texts: Iterator[str | Unreadable], output: Output, rejected: Counter[str]) -> int:
    count = 0
    for window, reply in bulk.run(windows(texts)):
        output.write(window.start, window.texts, reply.vectors, reply.rejected)
        rejected.update(str(r.reason) for r in reply.rejected)
        count += len(window.texts)
    return count


def _texts(args: argparse.Namespace, stack: ExitStack) -> Iterator[str | Unreadable]:
    paths: Sequence[str] = args.files or ["-"]
    # Opened before anything is sent: a name that is wrong costs nothing.
    streams = [stack.enter_context(_opened(path)) for path in paths]
    pairs = zip(paths, streams, strict=True)
    return (text for path, stream in pairs for text in read(stream, path, form=args.format, key=args.field))


def _opened(path: str) -> AbstractContextManager[IO[bytes]]:
    from embedmill.errors import InvalidRequestError

    if path == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise InvalidRequestError("FILE", f"{path} cannot be read: {error.strerror}") from None


def _output(args: argparse.Namespace, stack: ExitStack) -> Output:
    import io

    from embedmill.errors import InvalidRequestError
    from embedmill.vectors import Dtype
    from embedmill_worker.cli.outputs import JsonLines, NpyFile, replacing

    if args.output is None:
        return JsonLines(sys.stdout, with_text=args.with_text)
    path = Path(args.output)
    if path.suffix not in (".npy", ".jsonl"):
        raise InvalidRequestError("output", f"{path.name} ends neither in .npy nor in .jsonl")
    file = stack.enter_context(replacing(path))
    if path.suffix == ".npy":
        return NpyFile(file, Dtype.parse(args.dtype))
    return JsonLines(io.TextIOWrapper(file, encoding="utf-8", write_through=True), with_text=args.with_text)
