"""``reindex``: everything put together."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from embedmill.client import EmbeddingClient
from embedmill.errors import SinkMismatchError, UnknownModelError
from embedmill.protocol import EmbedOptions, ModelCard
from embedmill.reindexing.bulk_queue import BulkQueue, Served
from embedmill.reindexing.estimate import Estimate, estimate
from embedmill.reindexing.index import Index
from embedmill.reindexing.ledger import Ledger
from embedmill.reindexing.pipeline import Pipeline
from embedmill.reindexing.planner import unchanged
from embedmill.reindexing.record import Record
from embedmill.reindexing.rejects import Rejects
from embedmill.reindexing.report import NOTHING_YET, Progress, ReindexReport
from embedmill.reindexing.run import Run
from embedmill.reindexing.sink import Sink
from embedmill.reindexing.sinks.names import open_sink
from embedmill.reindexing.source import Fields, Source, Values
from embedmill.reindexing.sources.names import open_source
from embedmill.request import check_dimensions
from embedmill.settings import data_dir
from embedmill.vectors import Dtype

#: Seconds to wait for a worker that says what a model is.
CARD_S: Final = 60.0

#: Seconds between two looks for one.
LOOK_S: Final = 0.5

REBUILD: Final = "To build a new version beside it and switch over when it is whole: reindex(…, rebuild=True)."


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
    delete_missing: bool = False,
    retry_rejected: bool = False,
    rebuild: bool = False,
    rejects: str | os.PathLike[str] | None = None,
    on_progress: Callable[[Progress, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ReindexReport:
    """Bring a sink up to date with a source: embed what is new or changed, leave what is not.

    Every window of a few thousand texts is one durable job, one write and one commit. Killed at any moment, the same
    call goes on: it finds its jobs in Redis as far as they are, and the sink ends up with the same rows, bit for bit.

    >>> embedmill.reindex([("greeting", "Selamat pagi")], "vectors/")

    Args:
        source: a path (lines, JSONL, CSV, Parquet, a folder of text or Markdown), a ``Source``, or an iterable of
            ``Record``, ``(id, text)``, ``(id, text, metadata)`` or mappings. Read once, in order.
        to: a sink, or its name: a folder or ``*.parquet``, ``*.npy``, ``*.jsonl``, ``qdrant://…``,
            ``qdrant+file:FOLDER``, ``postgresql://…``.
        client: None: one of its own, from the environment.
        model: None: the client's, else the only one that workers announce.
        fields: which field of an object is the text, which the id, and which are carried along.
        input_type: ``passage``, ``query``, or None: no prefix.
        dimensions: components to keep; None: all.
        dtype: float32, float16, int8 or binary, as far as the sink can hold it.
        truncate: False rejects texts longer than the model reads.
        with_text: rows carry their texts.
        delete_missing: delete rows whose ids the source no longer has.
        retry_rejected: embed again what was rejected before, though it is unchanged.
        rebuild: if the sink was filled by another model or with other options, build a new version beside it and
            switch over when it is whole.
        rejects: file that lists what has no vector; None: ``NAME.rejects.jsonl`` beside the sink.
        on_progress: called now and then with how far the run is, and why nothing moves if nothing does.
        should_stop: asked now and then; True keeps what is finished, stops the rest and returns.

    Raises:
        RequestError: an option, a name or a sink that cannot be served; SinkMismatchError if it was filled otherwise.
        SourceError: the source cannot be read on.
        SinkError: the sink cannot be written, or another reindex is writing it.
        BrokerUnavailableError: Redis was away for a minute. The same call goes on.
    """
    records = to_source(source, fields)
    with ExitStack() as stack:
        if client is None:
            client = stack.enter_context(EmbeddingClient())
        queue = BulkQueue(client, model or client.settings.model)
        card = await_card(queue, on_progress, should_stop).card
        index = index_of(card, input_type, dimensions, dtype, truncate=truncate, with_text=with_text)
        named = to_sink(to)
        stack.callback(named.close)
        sink = version_of(named, index, rebuild=rebuild)
        stack.callback(sink.close)
        ledger = stack.enter_context(Ledger(ledger_path(sink, index), sink.name))
        prepare(sink, ledger, index)
        side = Rejects(Path(rejects) if rejects is not None else rejects_path(named))
        stack.callback(side.close)
        run = Run(
            sink,
            ledger,
            index,
            side,
            on_progress=on_progress or _ignore,
            should_stop=should_stop or _never,
            retry_rejected=retry_rejected,
            delete_missing=delete_missing,
        )
        run.pipeline = Pipeline(queue, ledger, index, sink=sink.name, dimensions=dimensions, look=run.look)
        is_whole = run.execute(records)
        rows = ledger.count()
        ledger.close()  # it may lie in a folder that is renamed now
        if is_whole and (note := sink.switch()):
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
        RequestError: ``reindex`` would raise it, too.
        SourceError: the source cannot be read.
    """
    queue = BulkQueue(client, model or client.settings.model)
    served = await_card(queue)
    index = index_of(served.card, input_type, dimensions, dtype, truncate=truncate, with_text=with_text)
    with ExitStack() as stack:
        named = to_sink(to)
        stack.callback(named.close)
        sink = version_of(named, index, rebuild=rebuild)
        stack.callback(sink.close)
        path = ledger_path(sink, index)
        ledger = stack.enter_context(Ledger(path, sink.name)) if path.exists() else None

        def count_unchanged(records: list[Record]) -> int:
            return unchanged(ledger, records) if ledger is not None and ledger.index() == index else 0

        rate = max(served.tokens_per_s, queue.backlog().tokens_per_s if served.is_live else 0.0)
        return estimate(
            to_source(source, fields), index, served.card, tokens_per_s=rate, count_unchanged=count_unchanged
        )


def to_sink(to: Sink | str | os.PathLike[str]) -> Sink:
    """Give the sink that the caller named."""
    return to if isinstance(to, Sink) else open_sink(os.fspath(to))


def index_of(
    card: ModelCard,
    input_type: str | None,
    dimensions: int | None,
    dtype: str,
    *,
    truncate: bool,
    with_text: bool,
) -> Index:
    """Give what all rows will have in common.

    Raises:
        InvalidRequestError: an option that the model cannot serve.
    """
    options = EmbedOptions(input_type=input_type, dimensions=dimensions, dtype=Dtype.parse(dtype), truncate=truncate)
    check_dimensions(options, card)
    return Index(
        model=card.name,
        fingerprint=card.fingerprint,
        dimension=dimensions or card.dimension,
        dtype=options.dtype,
        input_type=input_type,
        truncate=truncate,
        with_text=with_text,
    )


def to_source(source: Any, fields: Fields | None) -> Source:
    """Give what can be read from what the caller named."""
    if isinstance(source, str | os.PathLike):
        return open_source([os.fspath(source)], fields=fields or Fields())
    if hasattr(source, "fraction") and hasattr(source, "name"):
        given: Source = source
        return given
    return Values(source, fields)


def await_card(
    queue: BulkQueue,
    on_progress: Callable[[Progress, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Served:
    """Read the model's card, waiting a while for a worker that writes it.

    Raises:
        UnknownModelError: nobody has announced it.
    """
    give_up_s = time.monotonic() + CARD_S
    while True:
        try:
            served = queue.served()
            if served.card.dimension:
                return served
            missing = UnknownModelError(served.model, ())
        except UnknownModelError as error:
            if len(error.known) > 1:
                raise
            missing = error
        if time.monotonic() > give_up_s or (should_stop and should_stop()):
            raise missing
        if on_progress is not None:
            on_progress(NOTHING_YET, f"waiting for a worker that serves {missing.model or 'a model'}")
        time.sleep(LOOK_S)


def version_of(sink: Sink, index: Index, *, rebuild: bool) -> Sink:
    """Give the sink for this index: itself, or the version beside it.

    Raises:
        SinkMismatchError: it was filled otherwise and is not to be rebuilt.
    """
    filled = sink.filled_by()
    if filled is None or filled == index:
        return sink
    if not rebuild:
        raise SinkMismatchError(sink.name, filled.differences(index), REBUILD)
    return sink.beside(index)


def prepare(sink: Sink, ledger: Ledger, index: Index) -> None:
    """Open the sink and bring it and its ledger together.

    Raises:
        SinkMismatchError: the ledger says that it was filled otherwise.
    """
    recorded = ledger.index()
    if recorded is not None and recorded != index:
        way_out = REBUILD if sink.has_versions else "Name another sink."
        raise SinkMismatchError(sink.name, recorded.differences(index), way_out)
    sink.open(index)
    count = sink.count()
    if recorded is None or count not in (None, ledger.count()):  # the ledger is lost, or somebody else has written
        ledger.adopt(sink.known())
        ledger.set_index(index)
    sink.recover({place for place, n_rows, _ in ledger.segments() if n_rows})


def ledger_path(sink: Sink, index: Index) -> Path:
    """Give where the ledger lies."""
    named = sink.ledger_path(index)
    if named is not None:
        return named
    hashed = hashlib.blake2b(sink.name.encode(), digest_size=8).hexdigest()
    version = f"-{index.tag}" if sink.has_versions else ""
    return data_dir(os.environ) / "reindex" / f"{hashed}{version}.sqlite"


def rejects_path(sink: Sink) -> Path:
    """Give where rejects are listed unless the caller says."""
    if "://" not in sink.name and not sink.name.startswith("qdrant+file:"):
        path = Path(sink.name)
        return path.with_name(f"{path.name}.rejects.jsonl")
    table = re.search(r"[?&]table=([A-Za-z0-9_]+)", sink.name)
    last = table[1] if table else re.split(r"[/#]", sink.name.partition("?")[0])[-1]
    return Path(f"{last or 'reindex'}.rejects.jsonl")


def _ignore(progress: Progress, warning: str) -> None:
    pass


def _never() -> bool:
    return False
