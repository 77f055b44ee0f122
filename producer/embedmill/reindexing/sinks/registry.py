"""The registry of sinks, by name. A sink's module, and the library that it needs, is loaded when it is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Final

from embedmill.errors import InvalidRequestError, SinkError
from embedmill.reindexing import sinks
from embedmill.reindexing.sinks.base import Sink

#: What a name may look like, for people.
FORMS: Final = "a folder or FILE.parquet, FILE.npy, FILE.jsonl, qdrant://…, qdrant+file:FOLDER, postgresql://…"

#: Modules that are not called as a word which they serve; a folder's word is none.
_MODULES: Final = {
    "": "parquet",
    "npy": "single_file",
    "jsonl": "single_file",
    "qdrants": "qdrant",
    "qdrant+file": "qdrant",
    "postgresql": "postgres",
}


def open_sink(name: str) -> Sink:
    """Return the sink of this name; nothing is written yet.

    Raises:
        InvalidRequestError: the name has none of the forms in ``FORMS``.
        SinkError: the system does not let this user look at it.
        ModuleNotFoundError: the library that it needs is not installed; it comes with ``embedmill[reindex]``.
    """
    scheme, separator, _ = name.partition(":")
    if separator and (of_scheme := _find(f"{scheme}:")):
        return of_scheme(name)
    if "://" in name:
        raise InvalidRequestError("to", f"{scheme}:// is not a sink; name {FORMS}")
    path = Path(name)
    if path.name in ("", "..", "-"):
        raise InvalidRequestError("to", f"{name!r} names no file or folder of its own; name {FORMS}, as in vectors/")
    of_path = _find("" if _is_folder(path) else path.suffix)
    if of_path is None:
        raise InvalidRequestError("to", f"{path.name} is not a sink; name {FORMS}")
    return of_path(path)


def _find(key: str) -> Callable[[Any], Sink] | None:
    """Return what the module of a word has in its ``SINKS`` under ``word:`` or ``.word``; None: nothing."""
    word = key.strip(".:")
    name = _MODULES.get(word, word)
    if name not in {module.name for module in iter_modules(sinks.__path__)}:
        return None
    found: Mapping[str, Callable[[Any], Sink]] = getattr(import_module(f"{sinks.__name__}.{name}"), "SINKS", {})
    return found.get(key)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise SinkError(str(path), f"cannot be looked at: {error.strerror}; name another one") from None
