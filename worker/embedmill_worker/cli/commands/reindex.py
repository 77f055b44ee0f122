"""The command ``embedmill reindex``; its progress is a bar on a terminal, lines in a log, or JSON events."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from embedmill.model_spec import ModelSpec
from embedmill.safe.printable import printable
from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import is_rich, say

if TYPE_CHECKING:
    from embedmill.client import EmbeddingClient
    from embedmill.reindexing import Estimate, Progress, ReindexReport, Source

Show = Callable[["Progress", str], None]

#: Seconds between two lines of progress, and between two JSON events.
LINE_S: Final = 10.0
EVENT_S: Final = 1.0

_EPILOG = """\
  # embed a corpus into Parquet files; when run again, embed only what has changed
  embedmill reindex corpus.jsonl --to vectors/
  # a folder of Markdown into Qdrant: split long documents, and delete parts that are gone
  embedmill reindex docs/ --to qdrant://127.0.0.1:6333/docs --split 200 --overlap 20 --with-text --delete-missing
  # estimate time and size from a sample
  embedmill reindex corpus.jsonl --to vectors/ --dry-run
  # after a change of the model: build a new version beside the old one, and switch over once it is complete
  embedmill reindex corpus.jsonl --to vectors/ --rebuild

SINK is FOLDER, FILE.parquet, FILE.npy, FILE.jsonl, qdrant://HOST/NAME, qdrant+file:FOLDER or
postgresql://…?table=NAME. After an interruption or a crash, the same command continues.
Exit codes: 0 success, 2 invalid flag or input, 4 Redis does not answer, 6 the sink was filled with another model or
other options, 7 some texts were rejected and the others are in the sink, 12 a source could not be read, or only in
part: what was read is in the sink and nothing was deleted, 130 stopped by Ctrl-C.
"""

#: Flags whose variables name the command, so that a variable set for another purpose cannot delete what a sink holds.
_DELETING: Final = ("--delete-missing", "--rebuild")


def add(commands: Any) -> None:
    """Add the command."""
    text = "embed the new and changed texts of a corpus into a sink, such as Parquet files or Qdrant"
    parser = flags.command(commands, "reindex", run, help=text, epilog=_EPILOG)
    source, splitting, vectors, sink = map(parser.add_argument_group, ("input", "splitting", "vectors", "sink"))

    def flag(group: Any, name: str, metavar: str, text: str, **options: Any) -> None:
        flags.flag(group, name, variable(name), metavar, text, **options)

    def switch(group: Any, name: str, text: str) -> None:
        flags.switch(group, name, variable(name), text)

    source.add_argument("sources", metavar="SOURCE", nargs="+", help="files or folders to read, - for stdin")
    flags.reading_flags(source, flags.Formats("folder"))
    text = "field that holds the text, or a path to it such as doc.body (default: text)"
    flag(source, "--text-field", "NAME", text, default="text")
    text = "field that holds the id, or a path to it (default: id; FILE:LINE for records without one)"
    flag(source, "--id-field", "NAME", text, default="id")
    text = "fields to store with each vector (default: all but text and id)"
    flag(source, "--metadata", "NAME,…", text, type=_names)
    text = "split texts into parts of at most N tokens of the model (default: texts are not split)"
    flag(splitting, "--split", "N", text, type=flags.number)
    text = "tokens that neighbouring parts share (default: none)"
    flag(splitting, "--overlap", "N", text, type=flags.number)
    flag(splitting, "--tokenizer", "FILE", "tokenizer.json to count tokens with (default: the model's own)")
    flag(
        vectors,
        "--input-type",
        "TYPE",
        "role of the texts, which selects the model's prefix: query, passage or none (default: passage)",
        type=flags.one_of((*flags.INPUT_TYPES, "none")),
        default="passage",
    )
    flags.vector_flags(vectors)
    flags.flag(sink, "--to", "EMBEDMILL_SINK", "SINK", "where to write the vectors, see below (required)")
    switch(sink, "--with-text", "store the texts in the sink as well")
    switch(sink, "--delete-missing", "delete rows whose records are no longer in the source")
    sink.add_argument(
        "--delete-missing=all",
        dest="delete_missing",
        action="store_const",
        const="all",
        help="the same, even if the source was read with other options before; set the variable to all "
        "[EMBEDMILL_REINDEX_DELETE_MISSING]",
    )
    if os.environ.get(variable("--delete-missing")) == "all":
        parser.set_defaults(delete_missing="all")
    switch(sink, "--retry-rejected", "embed texts again that an earlier run rejected")
    text = "if the sink was filled with another model or other options, build a new version and switch over to it"
    switch(sink, "--rebuild", text)
    flag(sink, "--rejects", "FILE", "file that lists the records without a vector (default: SINK.rejects.jsonl)")
    flags.client_flags(parser, model=flags.model_spec)
    output = parser.add_argument_group("output")
    switch(output, "--dry-run", "estimate time and size from a sample, and embed and write nothing")
    switch(output, "--json", "print events as JSON lines: progress, and at the end done, stopped or estimate")


def run(args: argparse.Namespace) -> int:
    """Reindex; Ctrl-C keeps finished work and prints the command that continues."""
    from embedmill.client import EmbeddingClient
    from embedmill.errors import InvalidRequestError, SinkMismatchError

    # Arrow's default memory pool does not return freed memory. Arrow reads this when it is loaded.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if args.to is None:
        raise InvalidRequestError("--to", "no sink is named; give one, as in --to vectors/")
    with EmbeddingClient(args.redis_url, args.model and args.model.name, namespace=args.namespace) as client:
        try:
            if args.dry_run:
                return _preview(args, client)
            return _reindex(args, client)
        except SinkMismatchError as error:
            hint = f"To build a new version and switch over once it is complete, run:\n  {_command(args)} --rebuild"
            raise SinkMismatchError(error.sink, error.differences, hint) from None


def _reindex(args: argparse.Namespace, client: EmbeddingClient) -> int:
    from embedmill.errors import EmbedError, SinkMismatchError
    from embedmill.reindexing import reindex
    from embedmill.reindexing.report import NOTHING_YET
    from embedmill_worker.cli.terminal import Stopping

    latest = NOTHING_YET
    with Stopping() as stopping, shown(as_json=args.json) as show:

        def watch(progress: Progress, warning: str) -> None:
            nonlocal latest
            latest = progress
            show(progress, warning)

        try:
            report = reindex(
                _source(args, client),
                args.to,
                client=client,
                delete_missing=args.delete_missing,
                retry_rejected=args.retry_rejected,
                rebuild=args.rebuild,
                rejects=args.rejects,
                on_progress=watch,
                should_stop=stopping.is_asked,
                **_options(args),
            )
        except EmbedError as error:
            can_continue = not isinstance(error, SinkMismatchError)  # which has a hint of its own
            if can_continue and (latest.counts.embedded or latest.counts.deleted):
                say(f"committed work is kept; continue with: {_command(args)}")
            raise
    return _close(args, report)


def _close(args: argparse.Namespace, report: ReindexReport) -> int:
    from embedmill_worker import exit_codes

    if args.json:
        print(json.dumps({"event": "done" if report.is_whole else "stopped", **report.as_json()}), flush=True)
    else:
        print(
            f"{report.sink}: {report.added:,} added, {report.updated:,} updated, {report.skipped:,} unchanged, "
            f"{report.deleted:,} deleted, {report.rejected:,} rejected; {report.rows:,} rows"
        )
        if report.added + report.updated:
            rate = (report.added + report.updated) / report.elapsed_s
            took = f"{report.elapsed_s:.1f} s"
            print(f"embedded in {took}: {rate:,.0f} texts/s, {report.tokens:,} tokens, model {report.model}")
    for note in report.notes:
        say(note)
    if report.truncated:
        how_many = "1 text was" if report.truncated == 1 else f"{report.truncated:,} texts were"
        say(f"{how_many} truncated, because the model reads no more; --split embeds all of a text")
    if report.rejected:
        say(f"{report.rejected:,} rejected, listed in {report.rejects}; the first: {report.first_reject}")
    if not report.is_whole:
        say(f"stopped; finished work is kept. Continue with: {_command(args)}")
        return exit_codes.INTERRUPTED
    if report.unread:
        say("part of the source could not be read; what was read is kept, and nothing was deleted")
        return exit_codes.UNREADABLE
    return exit_codes.REJECTED if report.rejected else exit_codes.OK


def _preview(args: argparse.Namespace, client: EmbeddingClient) -> int:
    from embedmill.reindexing import preview

    found = preview(_source(args, client), args.to, client=client, rebuild=args.rebuild, **_options(args))
    if args.json:
        print(json.dumps({"event": "estimate", **asdict(found)}))
    else:
        _show_estimate(found)
    return 0


def _show_estimate(found: Estimate) -> None:
    if found.is_whole:
        print(f"estimate from all {found.sampled:,} records of the source:")
    elif found.fraction:
        print(f"estimate for the whole source, from {found.sampled:,} records ({found.fraction:.1%} of it):")
    else:
        print(f"estimate for the first {found.sampled:,} records only, because the size of the source is unknown:")
    print(f"texts      {found.texts:,}, {found.unchanged:,} of them unchanged")
    print(f"tokens     {found.tokens:,} to embed")
    print(f"time       {'unknown, no worker is live' if found.seconds is None else duration(found.seconds)}")
    print(f"sink       {found.sink_bytes / 1e6:,.1f} MB before compression")
    if found.unreadable:
        print(f"unreadable {found.unreadable:,} of the {found.sampled:,} records")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "input_type": None if args.input_type == "none" else args.input_type,
        "dimensions": args.dimensions,
        "dtype": args.dtype,
        "truncate": not args.no_truncate,
        "with_text": args.with_text,
    }


def _source(args: argparse.Namespace, client: EmbeddingClient) -> Source:
    from embedmill.errors import InvalidRequestError
    from embedmill.reindexing import Fields, open_source

    fields = Fields(text=args.text_field, id=args.id_field, metadata=args.metadata)
    source = open_source(
        args.sources, form=args.format, fields=fields, delimiter=args.delimiter, encoding=args.encoding
    )
    if args.split is None:
        if args.overlap is not None:
            raise InvalidRequestError("--overlap", "applies only to parts of texts; give --split as well")
        return source
    return _split(source, args, client)


def _split(source: Source, args: argparse.Namespace, client: EmbeddingClient) -> Source:
    from embedmill.errors import InvalidRequestError
    from embedmill.reindexing.bulk_queue import BulkQueue
    from embedmill.reindexing.opening import await_card
    from embedmill.reindexing.splitting import Split, Splitter

    card = await_card(BulkQueue(client, client.settings.model)).card
    if args.split > card.max_tokens:
        raise InvalidRequestError(
            "--split", f"{args.split} tokens are more than {card.name} reads; give at most {card.max_tokens}"
        )
    tokenizer = Path(args.tokenizer) if args.tokenizer else _tokenizer_of(card.name, args.model)
    return Split(source, Splitter(max_tokens=args.split, overlap_tokens=args.overlap or 0, tokenizer=tokenizer))


def _tokenizer_of(model: str, named: ModelSpec | None) -> Path:
    """Return the tokenizer of the model that workers serve; fetch it if it is not in the data folder."""
    from embedmill.errors import InvalidRequestError, ModelLoadError, SettingsError
    from embedmill.settings import data_dir, find_up
    from embedmill_worker.models import tokenizer_of

    up = find_up(os.environ)
    try:
        specs = (
            *([named] if named else []),
            *ModelSpec.parse_all(os.environ.get("EMBEDMILL_MODEL", "")),
            *(map(ModelSpec.parse, up.models) if up else ()),
        )
        # A spec that says where the model is comes before one that only names it.
        found = sorted((spec for spec in specs if spec.name == model), key=lambda spec: spec.place == spec.name)
        spec = found[0] if found else ModelSpec.parse(model)
        return tokenizer_of(spec, data_dir=data_dir(os.environ).absolute())
    except (ModelLoadError, SettingsError) as error:
        hint = f"name the model's folder with --model {model}=FOLDER, or its tokenizer.json with --tokenizer"
        raise InvalidRequestError("--split", f"{error}; {hint}") from None


def _command(args: argparse.Namespace) -> str:
    """Return the command line of this run, without passwords, for the user to run again."""
    from embedmill.urls import mask_url

    return shlex.join(["embedmill", *(mask_url(word) if "://" in word else word for word in args.given)])


def _names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def variable(name: str) -> str:
    """Return the environment variable of a flag."""
    command = "REINDEX_" if name in _DELETING else ""
    return f"EMBEDMILL_{command}{name[2:].replace('-', '_').upper()}"


@contextmanager
def shown(*, as_json: bool) -> Iterator[Show]:
    """Yield the callback that shows progress."""
    if as_json:
        yield _Seldom(EVENT_S, _event)
    elif is_rich(sys.stderr):
        with _bar() as show:
            yield show
    else:
        yield _Seldom(LINE_S, _line)


def line(progress: Progress) -> str:
    """Return progress as one line for people."""
    counts = progress.counts
    parts = [f"{progress.embedded:,} embedded", f"{progress.texts_per_s:,.0f} texts/s"]
    parts += [f"{counts.tokens:,} tokens written"] if counts.tokens else []
    parts += [f"{counts.skipped:,} unchanged"] if counts.skipped else []
    parts += [f"{counts.rejected:,} rejected"] if counts.rejected else []
    parts += [f"{progress.texts_in_flight:,} in flight"] if progress.texts_in_flight else []
    parts += [f"{duration(progress.eta_s)} left"] if progress.eta_s is not None else []
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a duration for people, as in ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600:,} h {whole % 3_600 // 60} min"


class _Seldom:
    """Callback that shows progress at most once in ``period_s`` seconds, and each new warning at once."""

    def __init__(self, period_s: float, show: Show) -> None:
        self._period_s = period_s
        self._show = show
        self._shown_s = time.monotonic()
        self._warning = ""

    def __call__(self, progress: Progress, warning: str) -> None:
        is_news = warning not in ("", self._warning)
        if is_news or time.monotonic() - self._shown_s >= self._period_s:
            self._shown_s = time.monotonic()
            self._warning = warning or self._warning
            self._show(progress, warning)


def _line(progress: Progress, warning: str) -> None:
    say(warning or line(progress))


def _event(progress: Progress, warning: str) -> None:
    fields = {name: value for name, value in asdict(progress).items() if name != "counts"}
    event = {"event": "progress", **asdict(progress.counts), **fields}
    print(json.dumps(event | {"warning": warning} if warning else event), flush=True)


@contextmanager
def _bar() -> Iterator[Show]:
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.BarColumn(bar_width=24), bars.TextColumn("{task.description}"), bars.TimeElapsedColumn())
    console = Console(stderr=True)
    with bars.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        warnings: set[str] = set()

        def show(progress: Progress, warning: str) -> None:
            if warning and warning not in warnings:
                warnings.add(warning)
                console.print(f"embedmill: {printable(warning)}", markup=False, highlight=False)
            total = None if progress.fraction is None else 1.0
            bar.update(task, description=line(progress), total=total, completed=progress.fraction)

        yield show
