"""The registry of sinks, by name. A sink's module, and the library that it needs, is loaded when it is named."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final, cast

from embedmill.errors import InvalidRequestError, SinkError
from embedmill.reindexing.sinks.base import Sink

#: What a name may look like, for people.
FORMS: Final = "a folder or FILE.parquet, FILE.npy, FILE.jsonl, qdrant://…, qdrant+file:FOLDER, postgresql://…"

_OF_SCHEME: Final = {
    "qdrant": "qdrant:QdrantSink",
    "qdrants": "qdrant:QdrantSink",
    "qdrant+file": "qdrant:QdrantSink",
    "postgresql": "postgres:PostgresSink",
    "postgres": "postgres:PostgresSink",
}

_OF_FILE: Final = {".parquet": "parquet:ParquetFile", ".npy": "single_file:NpyFile", ".jsonl": "single_file:JsonlFile"}

_OF_FOLDER: Final = "parquet:ParquetFolder"


def open_sink(name: str) -> Sink:
    """Return the sink of this name; nothing is written yet.

    Raises:
        InvalidRequestError: the name has none of the forms in ``FORMS``.
        SinkError: the system does not let this user look at it.
        ModuleNotFoundError: the library that it needs is not installed; it comes with ``embedmill[reindex]``.
    """
    scheme, separator, _ = name.partition(":")
    if separator and scheme in _OF_SCHEME:
        return _load(_OF_SCHEME[scheme], name)
    if "://" in name:
        raise InvalidRequestError("to", f"{scheme}:// is not a sink; name {FORMS}")
    path = Path(name)
    if path.name in ("", "..", "-"):
        raise InvalidRequestError("to", f"{name!r} names no file or folder of its own; name {FORMS}, as in vectors/")
    is_folder = _is_folder(path)
    if path.suffix in _OF_FILE and not is_folder:
        return _load(_OF_FILE[path.suffix], path)
    if path.suffix in ("", ".parquet") or is_folder:
        return _load(_OF_FOLDER, path)
    raise InvalidRequestError("to", f"{path.name} is not a sink; name {FORMS}")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise SinkError(str(path), f"cannot be looked at: {error.strerror}; name another one") from None


def _load(where: str, name: str | Path) -> Sink:
    module, _, kind = where.partition(":")
    return cast(Sink, getattr(import_module(f"embedmill.reindexing.sinks.{module}"), kind)(name))
