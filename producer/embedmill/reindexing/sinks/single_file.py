"""Sinks that are one file, assembled from segments at the end of a run. The old file stays until the new is complete.

The folder ``vectors.npy.embedmill`` beside ``vectors.npy`` has a folder for each version, named by its tag, and the tag
of the version in use. The segments stay there, so that the next run embeds only what has changed; this takes twice the
space on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np

from embedmill.errors import SinkError
from embedmill.reindexing.index import Index
from embedmill.reindexing.sinks.base import LiveRows, Rows, Sink
from embedmill.reindexing.sinks.row_formats import json_line, json_rows, write_npy_header, write_npy_rows
from embedmill.reindexing.sinks.segments import MAX_NOTE_BYTES, STATE_SUFFIX, SegmentedSink, refuse_others
from embedmill.safe.atomic_file import replacing
from embedmill.safe.regular_file import open_regular, read_regular
from embedmill.safe.utf8 import storable

#: File with the tag of the version in use.
CURRENT: Final = "current"

#: File with a digest of the list of segments that the file was assembled from.
WHOLE: Final = "whole"

#: Names of version folders; see ``Index.tag``.
_TAG: Final = re.compile(r"[0-9a-f]{8}")

#: Names that the state folder may contain before a version is in use.
STATE_FOLDERS: Final = re.compile(rf"{_TAG.pattern}|\.{CURRENT}\.\w+\.tmp")

#: Most bytes of one packed piece of a segment. A window of 1,000,000 characters with its vectors takes less.
MAX_PIECE_BYTES: Final = 1 << 30


class SingleFile(SegmentedSink):
    """A sink that is one file, with a folder of versions beside it."""

    suffix = ".msgpack"

    def __init__(self, path: Path, *, is_new_version: bool = False) -> None:
        super().__init__(str(path))
        self.path = path
        self._versions = path.with_name(path.name + STATE_SUFFIX)
        self._is_new_version = is_new_version

    @abstractmethod
    def assemble(self, index: Index, n_rows: int, rows: Iterable[Rows]) -> None:
        """Write the file, or files, from all rows."""

    def segments(self, index: Index) -> Path:
        """Return the version's folder."""
        return self._versions / index.tag

    def state(self, index: Index) -> Path:
        """Return the version's folder, which also holds the segments."""
        return self._versions / index.tag

    def read_index(self) -> Index | None:
        """Read the index from the folder of the version in use."""
        tag = self._current()
        if not tag:
            with self.mapped():
                self.refuse_foreign()
            return None
        return self.index_in(self._versions / tag)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The assembled files and the folder of versions."""
        return (*self.files, self._versions)

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that ``assemble`` writes."""
        return (self.path,)

    def refuse_foreign(self) -> None:
        """Raise SinkError if another program wrote one of the files."""
        for path in self.files:
            if os.path.lexists(path) and not self._current():
                name = self.name if path == self.path else str(path)
                raise SinkError(name, "was not written by reindex and would be replaced; name another file")
        if not self._current():
            refuse_others(self.name, self._versions, STATE_FOLDERS)

    def open(self, index: Index) -> None:
        """Create the version's folder."""
        with self.mapped():
            self.path.parent.mkdir(parents=True, exist_ok=True)
        super().open(index)
        if not self._is_new_version:
            self._use(index.tag)

    def put(self, path: Path, index: Index, rows: Iterable[Rows]) -> None:
        """Write a segment."""
        with replacing(path) as stream:
            for some in rows:
                stream.write(_pack(some, index))

    def read(self, path: Path, index: Index) -> Iterator[Rows]:
        """Read a segment."""
        with open_regular(path) as stream:
            for fields in msgpack.Unpacker(stream, max_buffer_size=MAX_PIECE_BYTES):
                yield _unpack(fields, index)

    def new_version(self, index: Index) -> Sink:
        """Return a sink that builds in the new version's folder; the file itself is replaced at the end."""
        return type(self)(self.path, is_new_version=True)

    def finish(self, live: LiveRows) -> None:
        """Drop the rows that are no longer live, and assemble the file if anything has changed."""
        super().finish(live)
        segments = [(write_id, n_rows) for write_id, n_rows, _ in live.segments() if n_rows]
        signature = hashlib.sha256(json.dumps(segments).encode()).hexdigest().encode()
        with self.mapped():
            whole = self.state(self.opened) / WHOLE
            if self.path.exists() and whole.exists() and read_regular(whole, MAX_NOTE_BYTES) == signature:
                return
            self.assemble(
                self.opened, sum(n for _, n in segments), self._all_rows([write_id for write_id, _ in segments])
            )
            with replacing(whole) as stream:
                stream.write(signature)

    def activate(self) -> str:
        """Make this version the one in use, and remove the segments of the previous one."""
        before = self._current()
        if not self._is_new_version or before == self.opened.tag:
            return ""
        self._use(self.opened.tag)
        if before:
            shutil.rmtree(self._versions / before, ignore_errors=True)
        return f"{self.path} holds the new vectors, which replace the previous ones"

    def _all_rows(self, write_ids: Sequence[int]) -> Iterator[Rows]:
        for write_id in write_ids:
            yield from self.read(self._path(write_id), self.opened)

    def _current(self) -> str:
        try:
            tag = read_regular(self._versions / CURRENT, MAX_NOTE_BYTES).decode().strip()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise SinkError(self.name, f"{self._versions / CURRENT} cannot be read: {reason}") from None
        if not _TAG.fullmatch(tag):
            raise SinkError(
                self.name,
                f"{self._versions / CURRENT} is damaged: it names no version; restore it, or name another file",
            )
        return tag

    def _use(self, tag: str) -> None:
        if self._current() != tag:
            with self.mapped(), replacing(self._versions / CURRENT) as stream:
                stream.write(tag.encode())


def _pack(rows: Rows, index: Index) -> bytes:
    packed: bytes = msgpack.packb(
        {
            "ids": list(rows.ids),
            "metadata": list(rows.metadata),
            "texts": None if rows.texts is None else list(map(storable, rows.texts)),
            "vectors": np.ascontiguousarray(rows.vectors, dtype=index.dtype.numpy).tobytes(),
        }
    )
    return packed


def _unpack(fields: dict[str, Any], index: Index) -> Rows:
    return Rows(
        write_id=0,
        ids=fields["ids"],
        vectors=np.frombuffer(fields["vectors"], dtype=index.dtype.numpy).reshape(-1, index.columns),
        metadata=fields["metadata"],
        digests=[b""] * len(fields["ids"]),
        texts=fields["texts"],
    )


class JsonlFile(SingleFile):
    """A file with ``{"id": …, "metadata": {…}, "embedding": […]}`` per line; the digits restore components exactly."""

    def assemble(self, index: Index, n_rows: int, rows: Iterable[Rows]) -> None:
        """Write the lines."""
        with replacing(self.path) as stream:
            for some in rows:
                for i, row in enumerate(json_rows(some.vectors)):
                    stream.write(json_line({**_fields(some, i), "embedding": row}).encode())


class NpyFile(SingleFile):
    """An array (n, columns) that can be memory-mapped, and ``NAME.ids.jsonl`` with its rows' ids and metadata."""

    @property
    def ids_path(self) -> Path:
        """The file whose line i describes row i."""
        return self.path.with_suffix(".ids.jsonl")

    @property
    def files(self) -> tuple[Path, ...]:
        """Both files."""
        return (self.path, self.ids_path)

    def assemble(self, index: Index, n_rows: int, rows: Iterable[Rows]) -> None:
        """Write both files."""
        with replacing(self.ids_path) as ids, replacing(self.path) as array:
            write_npy_header(array, index.dtype, n_rows, index.columns)
            for some in rows:
                write_npy_rows(array, index.dtype, some.vectors)
                for i in range(len(some)):
                    ids.write(json_line(_fields(some, i)).encode())


def _fields(rows: Rows, i: int) -> dict[str, str]:
    """Return the fields of a row's line, except its vector, as JSON."""
    text = {} if rows.texts is None else {"text": json.dumps(rows.texts[i])}
    return {"id": json.dumps(rows.ids[i]), "metadata": rows.metadata[i], **text}


SINKS: Final = {".npy": NpyFile, ".jsonl": JsonlFile}
