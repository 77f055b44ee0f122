"""``reindex`` and ``preview``: the entry points of reindexing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedmill.reindexing.bulk_queue import BulkQueue
from embedmill.reindexing.estimate import Estimate, estimate
from embedmill.reindexing.opening import (
    await_card,
    check_apart,
    index_of,
    is_there,
    ledger_path,
    prepare,
    rejects_path,
    to_sink,
    to_source,
    version_of,
)
from embedmill.reindexing.pipeline import Pipeline
from embedmill.reindexing.planning.ledger import Ledger
from embedmill.reindexing.planning.planner import unchanged
from embedmill.reindexing.planning.ways import ALL, Deletes, check_origins, check_ways, note_ways
from embedmill.reindexing.record import Record
from embedmill.reindexing.rejects import Rejects
from embedmill.reindexing.report import Progress, ProgressMeter, ReindexReport
from embedmill.reindexing.run import Run
from embedmill.reindexing.sinks.base import Sink
from embedmill.reindexing.sources.base import Fields, Source

if TYPE_CHECKING:
    from embedmill.client import EmbeddingClient


def reindex(
    source: Source | str | os.PathLike[str] | Iterable[Any],
    to: Sink | str | os.PathLike[str],
    *,
    client: EmbeddingClient | None = None,
    model: str | None = None,
    fields: Fields | None = None,
    input_type: str | None = "passage",
    dimensions: int | None = None,
    dtype: str = "float32",
    truncate: bool = True,
    with_text: bool = False,
    delete_missing: Deletes = False,
    retry_rejected: bool = False,
    rebuild: bool = False,
    rejects: str | os.PathLike[str] | None = None,
    on_progress: Callable[[Progress, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ReindexReport:
    """Bring a sink up to date with a source: embed new and changed texts, skip unchanged ones.

    Every window of a few thousand texts is one durable job, one write and one commit. After a crash at any moment, the
    same call resumes: it finds its jobs in Redis, and the sink ends up with the same rows, bit for bit.

    >>> embedmill.reindex([("greeting", "Selamat pagi")], "vectors/")

    Args:
        source: a path (lines, JSONL, CSV, Parquet, a folder of text or Markdown), a ``Source``, or an iterable of
            ``Record``, ``(id, text)``, ``(id, text, metadata)`` or mappings, or anything with Arrow's stream protocol
            (a frame of pandas or polars, a relation of DuckDB). Read once, in order.
        to: a sink, or its name: a folder or ``*.parquet``, ``*.npy``, ``*.jsonl``, ``qdrant://…``,
            ``qdrant+file:FOLDER``, ``postgresql://…``.
        client: None creates one from the environment.
        model: None takes the client's, else the only one that workers announce.
        fields: which field of an object is the text, which the id, and which become metadata.
        input_type: ``passage``, ``query``, or None for no prefix.
        dimensions: components to keep; None keeps all.
        dtype: float32, float16, int8 or binary; the sink must support it.
        truncate: False rejects texts longer than the model reads.
        with_text: store the texts in the rows.
        delete_missing: delete rows whose ids the source no longer has. Refused if the source is read differently than
            before (another format or field, fewer kinds of files, other files or folders), unless it is ``"all"``.
        retry_rejected: embed texts again that were rejected before, although they are unchanged.
        rebuild: if the sink was filled by another model or with other options, build a new version beside it and
            switch to it when it is complete.
        rejects: file that lists the records without a vector; None: ``NAME.rejects.jsonl`` beside the sink.
        on_progress: called regularly with the progress and, if the run is waiting, a warning that says for what.
        should_stop: called regularly; if it returns True, jobs that no worker has begun are deleted, the others are
            left for the next run, and ``reindex`` returns.

    Raises:
        RequestError: an option, a name or a sink cannot be used.
        SinkMismatchError: the sink was filled by another model or with other options.
        SourceError: the source cannot be read any further.
        SinkError: the sink cannot be written, or another reindex is writing it.
        BrokerUnavailableError: Redis was unavailable for a minute. The same call resumes.
    """
    records = to_source(source, fields)
    with ExitStack() as stack:
        named = to_sink(to)
        stack.callback(named.close)
        side = Rejects(Path(rejects) if rejects is not None else rejects_path(named))
        stack.callback(side.close)
        check_apart(records, named, side.path)
        if client is None:
            client = stack.enter_context(_new_client())
        queue = BulkQueue(client, model or client.settings.model)
        card = await_card(queue, on_progress, should_stop).card
        index = index_of(card, input_type, dimensions, dtype, truncate=truncate, with_text=with_text)
        sink = version_of(named, index, rebuild=rebuild)
        stack.callback(sink.close)
        ledger = stack.enter_context(Ledger(ledger_path(sink, index), sink.name))
        prepare(sink, ledger, index)
        check_ways(records, ledger, named.name, deletes=delete_missing)
        check_origins(records, ledger, named.name, replaces=delete_missing == ALL)
        note_ways(records, ledger)
        meter = ProgressMeter(records, on_progress, should_stop)
        run = Run(
            source=records,
            sink=sink,
            ledger=ledger,
            index=index,
            rejects=side,
            pipeline=Pipeline(queue, ledger, index, meter, sink=sink.name, dimensions=dimensions),
            meter=meter,
            retry_rejected=retry_rejected,
            delete_missing=delete_missing,
        )
        is_whole = run.execute()
        if is_whole:
            side.finish()
            if run.has_deleted_missing:
                ledger.set_reading([])  # rows that were read in other ways are deleted
            note_ways(records, ledger)
        rows = ledger.count()
        ledger.close()  # ``activate`` may rename the folder that it lies in
        if is_whole and (note := sink.activate()):
            run.notes.append(note)
        return run.report(named.name, is_whole=is_whole, rows=rows)


def preview(
    source: Source | str | os.PathLike[str] | Iterable[Any],
    to: Sink | str | os.PathLike[str],
    *,
    client: EmbeddingClient,
    model: str | None = None,
    fields: Fields | None = None,
    input_type: str | None = "passage",
    dimensions: int | None = None,
    dtype: str = "float32",
    truncate: bool = True,
    with_text: bool = False,
    rebuild: bool = False,
) -> Estimate:
    """Estimate what ``reindex`` with these arguments would take, from a sample. Nothing is sent or written.

    Raises:
        RequestError: as ``reindex`` raises it.
        SourceError: the source cannot be read.
    """
    with ExitStack() as stack:
        records = to_source(source, fields)
        named = to_sink(to)
        stack.callback(named.close)
        check_apart(records, named)
        queue = BulkQueue(client, model or client.settings.model)
        served = await_card(queue)
        index = index_of(served.card, input_type, dimensions, dtype, truncate=truncate, with_text=with_text)
        sink = version_of(named, index, rebuild=rebuild)
        stack.callback(sink.close)
        path = ledger_path(sink, index)
        ledger = stack.enter_context(Ledger(path, sink.name)) if is_there(path, sink) else None

        def count_unchanged(records: list[Record], metadata: list[str]) -> int:
            return unchanged(ledger, records, metadata) if ledger is not None and ledger.index() == index else 0

        rate = max(served.tokens_per_s, queue.backlog().tokens_per_s if served.is_live else 0.0)
        return estimate(records, index, served.card, tokens_per_s=rate, count_unchanged=count_unchanged)


def _new_client() -> EmbeddingClient:
    from embedmill.client import EmbeddingClient  # noqa: PLC0415 (a caller who passes a client has loaded it)

    return EmbeddingClient()
