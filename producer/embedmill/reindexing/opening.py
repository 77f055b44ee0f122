"""Opening what a run and its preview need: the model's card, the version of the sink, the ledger, the source."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from embedmill.errors import InvalidRequestError, SinkError, SinkMismatchError, UnknownModelError
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.options import EmbedOptions
from embedmill.reindexing.index import Index
from embedmill.reindexing.planning.ledger import Ledger
from embedmill.reindexing.planning.ways import SOURCE
from embedmill.reindexing.report import NOTHING_YET, Progress
from embedmill.reindexing.sinks.base import Sink
from embedmill.reindexing.sinks.registry import open_sink
from embedmill.reindexing.sources.base import Fields, Source, Values, ways_of
from embedmill.reindexing.sources.registry import open_source
from embedmill.safe.printable import printable
from embedmill.settings import data_dir

if TYPE_CHECKING:
    from embedmill.reindexing.bulk_queue import BulkQueue, Served

#: Seconds to wait for a worker that announces the model.
CARD_S: Final = 60.0

#: Seconds between two looks for such a worker.
LOOK_S: Final = 0.5

REBUILD: Final = "To build a new version beside it and switch over when it is whole: reindex(…, rebuild=True)."


def to_sink(to: Sink | str | os.PathLike[str]) -> Sink:
    """Return the sink that the caller named."""
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
    """Return the model and options that all rows will share.

    Raises:
        InvalidRequestError: the model cannot serve an option.
    """
    options = EmbedOptions(input_type=input_type, dimensions=dimensions, dtype=dtype, truncate=truncate)
    card.check(options)
    return Index(
        model=card.name,
        fingerprint=card.fingerprint,
        dimension=dimensions or card.dimension,
        dtype=options.dtype,
        input_type=input_type,
        truncate=truncate,
        with_text=with_text,
        revision=card.revision,
    )


def to_source(source: Any, fields: Fields | None) -> Source:
    """Return a source for what the caller passed.

    Raises:
        SourceError: it cannot be read.
        InvalidRequestError: it holds no records, or lacks a field.
    """
    if isinstance(source, str | os.PathLike):
        return open_source([os.fspath(source)], fields=fields or Fields())
    if any(hasattr(source, method) for method in ("__arrow_c_stream__", "to_reader", "scanner")):
        module = import_module("embedmill.reindexing.sources.arrow")
        return cast(Source, module.Frame(source, fields))
    if callable(getattr(source, "fraction", None)) and hasattr(source, "name"):
        return cast(Source, source)
    return Values(source, fields)


def check_apart(source: Source, sink: Sink, rejects: Path | None = None) -> None:
    """Check that source, sink and the list of rejects do not share a file or folder.

    Args:
        source: what is read.
        sink: what is written.
        rejects: the file for rejects, if there will be one.

    Raises:
        InvalidRequestError: two of them overlap.
    """
    read = [path for path in (Path(way[SOURCE]) for way in ways_of(source)) if path.is_absolute() and path.exists()]
    written = [Path(os.path.realpath(path)) for path in sink.paths]
    for path in read:
        if any(path.is_relative_to(other) or _is_same(path, other) for other in written):
            reason = f"{printable(sink.name)} is the source itself, or contains it; name another file or folder"
            raise InvalidRequestError("to", reason)
    if rejects is not None:
        _check_list(rejects, read, written)


def _check_list(rejects: Path, read: Sequence[Path], written: Sequence[Path]) -> None:
    path = Path(os.path.realpath(rejects))
    if any(_is_same(other, path) for other in read):
        raise InvalidRequestError("rejects", f"{rejects} is the source itself; name another file (--rejects)")
    if path.suffix != ".jsonl" and any(path.is_relative_to(other) for other in read):
        reason = f"{rejects} lies in the source and would be read as one of its files; end its name in .jsonl"
        raise InvalidRequestError("rejects", reason)
    if any(path.is_relative_to(other) for other in written):
        raise InvalidRequestError("rejects", f"{rejects} is written by the sink; name another file (--rejects)")


def _is_same(path: Path, other: Path) -> bool:
    """Return whether two paths are the same file, also through hard and symbolic links."""
    return path == other or (other.exists() and path.samefile(other))


def await_card(
    queue: BulkQueue,
    on_progress: Callable[[Progress, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Served:
    """Read the model's card; wait up to a minute for a worker that announces it.

    Raises:
        UnknownModelError: no worker has announced it.
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
    """Return the sink itself or, if it was filled with another index and ``rebuild`` is True, a new version of it.

    Raises:
        SinkMismatchError: it was filled with another index, and ``rebuild`` is False.
    """
    filled = sink.read_index()
    if filled is None or filled == index:
        return sink
    if not rebuild:
        raise SinkMismatchError(sink.name, filled.differences(index), REBUILD)
    return sink.new_version(index)


def prepare(sink: Sink, ledger: Ledger, index: Index) -> None:
    """Open the sink and make its ledger agree with it.

    Raises:
        SinkMismatchError: by its ledger, the sink was filled with another index.
    """
    recorded = ledger.index()
    if recorded is not None and recorded != index:
        way_out = REBUILD if sink.has_versions else "Name another sink."
        raise SinkMismatchError(sink.name, recorded.differences(index), way_out)
    sink.open(index)
    count = sink.count()
    if recorded is None or count not in (
        None,
        ledger.count(),
    ):  # the ledger is lost, or another program wrote to the sink
        ledger.restore(sink.read_digests())
        ledger.set_index(index)
    sink.recover({write_id for write_id, n_rows, _ in ledger.segments() if n_rows})


def ledger_path(sink: Sink, index: Index) -> Path:
    """Return the path of the sink's ledger."""
    named = sink.ledger_path(index)
    if named is not None:
        return named
    hashed = hashlib.blake2b(sink.name.encode(), digest_size=8).hexdigest()
    version = f"-{index.tag}" if sink.has_versions else ""
    return data_dir(os.environ) / "reindex" / f"{hashed}{version}.sqlite"


def is_there(path: Path, sink: Sink) -> bool:
    """Return whether a ledger exists.

    Raises:
        SinkError: this user may not read its folder.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise SinkError(sink.name, f"its ledger {path} cannot be read: {error.strerror}; name another sink") from None
    return True


def rejects_path(sink: Sink) -> Path:
    """Return the default path of the list of rejects."""
    if "://" not in sink.name and not sink.name.startswith("qdrant+file:"):
        path = Path(sink.name)
        return path.with_name(f"{path.name}.rejects.jsonl") if path.name else Path("reindex.rejects.jsonl")
    table = re.search(r"[?&]table=([A-Za-z0-9_]+)", sink.name)
    last = table[1] if table else re.split(r"[/#]", sink.name.partition("?")[0])[-1]
    return Path(f"{last or 'reindex'}.rejects.jsonl")
