"""``embedmill reindex``, and how far it is: a bar on a terminal, a line now and then in a log, or JSON events."""

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

#: Seconds between two lines, and between two events.
LINE_S: Final = 10.0
EVENT_S: Final = 1.0

_EPILOG: Final = """\
  # a corpus into Parquet files; the same command later embeds only what has changed
  embedmill reindex corpus.jsonl --to vectors/
  # a folder of Markdown into Qdrant, long documents in parts of 200 tokens, what has vanished deleted
  embedmill reindex docs/ --to qdrant://127.0.0.1:6333/docs --split 200 --overlap 20 --with-text --delete-missing
  # what it would take, from a sample
  embedmill reindex corpus.jsonl --to vectors/ --dry-run
  # after a change of the model: build a new version beside the old one and switch over when it is whole
  embedmill reindex corpus.jsonl --to vectors/ --rebuild

Sinks: FOLDER or FILE.parquet, FILE.npy, FILE.jsonl, qdrant://HOST/NAME, qdrant+file:FOLDER,
postgresql://…?table=NAME. Interrupted or killed, the same command goes on.
exit codes: 0, 2 it cannot work as asked, 4 Redis does not answer, 6 filled by another model, 7 some texts were rejected
and the others are in the sink, 12 a source could not be read, or only in part: what was read is in the sink and nothing
was deleted, 130 stopped by Ctrl-C
"""

#: Flags whose variables name the command, lest one that is set for another purpose deletes what a sink holds.
_DELETING: Final = ("--delete-missing", "--rebuild")


def add(commands: Any) -> None:
    """Add the command."""
    text = "bring a sink up to date with a corpus: embed what is new or changed"
    parser = flags.command(commands, "reindex", run, help=text, epilog=_EPILOG)
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="files or folders to read, - for stdin")

    def flag(name: str, metavar: str, text: str, **options: Any) -> None:
        flags.flag(parser, name, variable(name), metavar, text, **options)

    def switch(name: str, text: str) -> None:
        flags.switch(parser, name, variable(name), text)

    flags.flag(parser, "--to", "EMBEDMILL_SINK", "SINK", "where the vectors go (needed)")
    flags.client_flags(parser, model=flags.model_spec)
    flag("--format", "FORMAT", "default auto", choices=flags.Formats("folder"), default="auto")
    flag("--text-field", "NAME", "field that holds the text, or its path as in doc.body; default text", default="text")
    flag("--id-field", "NAME", "field that holds the id; default id, and without it FILE:LINE", default="id")
    flag("--metadata", "NAME,…", "fields that are carried along; default all others", type=_names)
    flag("--delimiter", "CHAR", "between the fields of CSV, as ';' or tab; default a comma, in .tsv a tab")
    flag("--encoding", "NAME", "of text without a byte order mark, as latin-1; default UTF-8")
    flag("--split", "N", "split texts into parts of at most N of the model's tokens", type=flags.number)
    flag("--overlap", "N", "tokens that neighbouring parts share; default none", type=flags.number)
    flag("--tokenizer", "FILE", "tokenizer.json to split by; default the model's own")
    switch("--with-text", "the sink carries the texts, too")
    flag(
        "--input-type",
        "TYPE",
        "query, passage or none: the model's prefix; default passage",
        type=flags.one_of((*flags.INPUT_TYPES, "none")),
        default="passage",
    )
    flag("--dimensions", "N", "components to keep; default all", type=flags.number)
    flag("--dtype", "DTYPE", f"{', '.join(flags.DTYPES)}", type=flags.one_of(flags.DTYPES), default="float32")
    switch("--no-truncate", "reject texts longer than the model reads")
    switch("--delete-missing", "delete what the source no longer has")
    parser.add_argument(
        "--delete-missing=all",
        dest="delete_missing",
        action="store_const",
        const="all",
        help="the same, though the source is read otherwise than before; variable: all "
        "[EMBEDMILL_REINDEX_DELETE_MISSING]",
    )
    if os.environ.get(variable("--delete-missing")) == "all":
        parser.set_defaults(delete_missing="all")
    switch("--retry-rejected", "embed again what was rejected before")
    switch("--rebuild", "if the sink was filled otherwise, build a new version and switch over")
    flag("--rejects", "FILE", "list what has no vector there; default SINK.rejects.jsonl")
    switch("--dry-run", "say what it would take, from a sample")
    switch("--json", "events as JSON lines on stdout: progress, and at the end done or stopped")


def run(args: argparse.Namespace) -> int:
    """Reindex; Ctrl-C keeps what is finished and says how to go on."""
    from embedmill.client import EmbeddingClient
    from embedmill.errors import InvalidRequestError, SinkMismatchError

    # Arrow's usual memory pool keeps what it no longer needs. Read when Arrow is loaded.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if args.to is None:
        raise InvalidRequestError("--to", "name the sink, as in --to vectors/")
    with EmbeddingClient(args.redis_url, args.model and args.model.name, namespace=args.namespace) as client:
        try:
            if args.dry_run:
                return _preview(args, client)
            return _reindex(args, client)
        except SinkMismatchError as error:
            again = f"{_command(args)} --rebuild"
            way_out = f"Build a new version beside it and switch over when it is whole:\n  {again}"
            raise SinkMismatchError(error.sink, error.differences, way_out) from None


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
            is_same_again = not isinstance(error, SinkMismatchError)  # that one names its own way out
            if is_same_again and (latest.counts.embedded or latest.counts.deleted):
                say(f"what is committed stays; go on with: {_command(args)}")
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
            print(f"in {report.elapsed_s:.1f} s: {rate:,.0f} texts/s, {report.tokens:,} tokens, model {report.model}")
    for note in report.notes:
        say(note)
    if report.truncated:
        say(f"{report.truncated:,} texts were cut at what the model reads; --split keeps all of them, in parts")
    if report.rejected:
        say(f"{report.rejected:,} rejected: {report.rejects}; the first: {report.first_reject}")
    if not report.is_whole:
        say(f"stopped; what is finished is kept. Go on with: {_command(args)}")
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
        _tell(found)
    return 0


def _tell(found: Estimate) -> None:
    if found.is_whole:
        print(f"all {found.sampled:,} records looked at")
    elif found.fraction:
        print(f"{found.sampled:,} records looked at, {found.fraction:.1%} of the source; reckoned for all of it:")
    else:
        print(f"{found.sampled:,} records looked at; how many more there are nobody knows:")
    print(f"texts      {found.texts:,}, of them {found.unchanged:,} unchanged")
    print(f"tokens     {found.tokens:,} to embed")
    print(f"time       {'no worker is live' if found.seconds is None else duration(found.seconds)}")
    print(f"sink       {found.sink_bytes / 1e6:,.1f} MB before compression")
    if found.unreadable:
        print(f"unreadable {found.unreadable:,} of those looked at")


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
            raise InvalidRequestError("--overlap", "is of parts; give --split, too")
        return source
    return _split(source, args, client)


def _split(source: Source, args: argparse.Namespace, client: EmbeddingClient) -> Source:
    from embedmill.errors import InvalidRequestError
    from embedmill.reindexing.bulk_queue import BulkQueue
    from embedmill.reindexing.opening import await_card
    from embedmill.reindexing.splitting import Split, Splitter

    card = await_card(BulkQueue(client, client.settings.model)).card
    if args.split > card.max_tokens:
        raise InvalidRequestError("--split", f"{args.split} tokens, and {card.name} reads {card.max_tokens}")
    tokenizer = Path(args.tokenizer) if args.tokenizer else _tokenizer_of(card.name, args.model)
    return Split(source, Splitter(max_tokens=args.split, overlap_tokens=args.overlap or 0, tokenizer=tokenizer))


def _tokenizer_of(model: str, named: ModelSpec | None) -> Path:
    """Return the tokenizer of the model that workers serve, which is fetched if it is not here."""
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
        # One that says where the model is comes before one that only names it.
        found = sorted((spec for spec in specs if spec.name == model), key=lambda spec: spec.place == spec.name)
        spec = found[0] if found else ModelSpec.parse(model)
        return tokenizer_of(spec, data_dir=data_dir(os.environ).absolute())
    except (ModelLoadError, SettingsError) as error:
        way_out = f"say where it lies with --model {model}=FOLDER, or name its tokenizer.json with --tokenizer"
        raise InvalidRequestError("--split", f"{error}; {way_out}") from None


def _command(args: argparse.Namespace) -> str:
    """Return the command that was called, for the user to call again, without passwords."""
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
    """Return the callback that shows progress."""
    if as_json:
        yield _Seldom(EVENT_S, _event)
    elif is_rich(sys.stderr):
        with _bar() as show:
            yield show
    else:
        yield _Seldom(LINE_S, _line)


def line(progress: Progress) -> str:
    """Return one line for people."""
    counts = progress.counts
    parts = [f"{progress.embedded:,} embedded", f"{progress.texts_per_s:,.0f} texts/s", f"{counts.tokens:,} tokens"]
    parts += [f"{counts.skipped:,} unchanged"] if counts.skipped else []
    parts += [f"{counts.rejected:,} rejected"] if counts.rejected else []
    parts += [f"{progress.texts_in_flight:,} under work"] if progress.texts_in_flight else []
    parts += [f"{duration(progress.eta_s)} left"] if progress.eta_s is not None else []
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return seconds for people, as in ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600:,} h {whole % 3_600 // 60} min"


class _Seldom:
    """Shows what it is given, but not more often than every so many seconds, and each warning once."""

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
