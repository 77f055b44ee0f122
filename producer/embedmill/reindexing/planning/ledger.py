"""The ledger: what a sink holds, by id, in one SQLite file beside the sink. It is the checkpoint of every run.

The ledger commits after the sink. So it never names a row that the sink does not have; rows that a crash kept out of
the ledger are written to the sink again.

    about      key → value: ``index``, the sink's Index as JSON; ``origins``, see ``ways.py``; ``reading``, how its
               sources were read
    rows       one row per id: number, never reused; parent, for a part of a document; digest; place, the id of the
               write that put it into the sink, or NULL and the reason why it has no vector
    segments   place → number of rows of that write that have not been removed
    jobs       ids of jobs in Redis that are not committed here
    documents  documents whose parts are all in the sink: digest and number of parts
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

from embedmill.errors import MessageError, SinkError
from embedmill.reindexing.index import Index
from embedmill.safe.regular_file import check_regular

#: Version of the tables; a ledger of another version is refused.
VERSION: Final = 2

#: KiB of pages that SQLite keeps in memory.
CACHE_KIB: Final = 8_192

_TABLES: Final = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE rows (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, parent TEXT, digest BLOB NOT NULL,
  place INTEGER, reason TEXT, detail TEXT,
  CHECK ((place IS NULL) = (reason IS NOT NULL))
);
CREATE INDEX rows_by_place ON rows (place);
CREATE INDEX rows_by_parent ON rows (parent) WHERE parent IS NOT NULL;
CREATE TABLE segments (place INTEGER PRIMARY KEY, n_rows INTEGER NOT NULL);
CREATE TABLE jobs (id TEXT PRIMARY KEY) WITHOUT ROWID
"""

#: Added in version 2.
_DOCUMENTS: Final = """
CREATE TABLE documents (id TEXT PRIMARY KEY, digest BLOB NOT NULL, n_parts INTEGER NOT NULL) WITHOUT ROWID
"""

_LOOK_UP: Final = "SELECT number, digest, place, reason, detail FROM rows WHERE id = ?"

_PUT: Final = """
INSERT INTO rows (number, id, parent, digest, place, reason, detail) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (number) DO UPDATE SET parent = excluded.parent, digest = excluded.digest, place = excluded.place,
  reason = excluded.reason, detail = excluded.detail
"""

#: Error codes of SQLite where this user may not write, and the hint for them.
_REFUSALS: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
_OTHER_PLACE: Final = "name a sink that you may write, or for a database a writable EMBEDMILL_DATA_DIR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of the ledger."""

    number: int
    id: str
    parent: str
    digest: bytes
    #: Id of the write that put it into the sink; None if it has no vector.
    write_id: int | None
    #: Why it has no vector.
    reason: str = ""
    detail: str = ""


class Known(NamedTuple):
    """A result of ``look_up``. It is a tuple because tens of thousands are made per second."""

    number: int
    digest: bytes
    #: Id of the write that put it into the sink; None if it has no vector.
    write_id: int | None
    #: Why it has no vector.
    reason: str | None
    detail: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text that was split. In the ledger only if all its parts are in the sink."""

    id: str
    #: Digest of its text, its metadata and the settings of the split.
    digest: bytes
    n_parts: int


class Ledger:
    """An open ledger. One process at a time may have it open."""

    def __init__(self, path: Path, sink: str) -> None:
        """Open or create it.

        Raises:
            SinkError: it is in use, damaged, or of another version.
        """
        self.path = path
        self._sink = sink
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(sink, f"{path.parent} cannot be created: {error.strerror}; {_OTHER_PLACE}") from None
        try:
            check_regular(path)
        except (FileNotFoundError, PermissionError):
            pass  # SQLite creates it, or raises an error that says why not
        except OSError as error:
            raise SinkError(sink, f"its ledger {path} cannot be used: {error.strerror}") from None
        with self._mapped():
            self._db = sqlite3.connect(path, timeout=0.0, isolation_level=None)
        try:
            with self._mapped():
                self._set_up()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, so that other processes can open it. May be called twice."""
        self._db.close()

    def _set_up(self) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._db.execute("BEGIN IMMEDIATE")  # from now on no other process can open it
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0 and not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _TABLES.split(";\n"):
                self._db.execute(statement)
            version = 1
        if version == 1:
            self._db.execute(_DOCUMENTS)
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        elif version != VERSION:
            raise SinkError(self._sink, f"{self.path} has version {version}, not {VERSION}; name another sink")
        self._db.execute("COMMIT")

    def index(self) -> Index | None:
        """Return the model and options of the sink's rows; None if nothing was ever written."""
        found = self._about("index")
        try:
            return Index.from_json(found) if found else None
        except MessageError as error:
            raise SinkError(self._sink, f"{self.path}: {error}") from None

    def set_index(self, index: Index) -> None:
        """Store the model and options of the sink's rows."""
        self._set_about("index", index.to_json())

    def origins(self) -> dict[str, str]:
        """Return prefixes of ids → paths of the files that they stand for."""
        origins: dict[str, str] = json.loads(self._about("origins") or "{}")
        return origins

    def set_origins(self, origins: Mapping[str, str]) -> None:
        """Store prefixes of ids → paths of the files that they stand for."""
        self._set_about("origins", json.dumps(origins))

    def next_number(self) -> int:
        """Return a row number that was never used."""
        return self._above("SELECT max(number) FROM rows")

    def next_write_id(self) -> int:
        """Return a write id that was never used."""
        return self._above("SELECT max(place) FROM segments")

    def count(self) -> int:
        """Return the number of rows that have a vector."""
        with self._mapped():
            return int(self._db.execute("SELECT count(place) FROM rows").fetchone()[0])

    def look_up(self, ids: Iterable[str]) -> dict[str, Known]:
        """Return the rows of those ids that the ledger has."""
        with self._mapped():
            execute = self._db.execute
            return {id: Known(*row) for id in ids for row in execute(_LOOK_UP, (id,))}

    def reading(self) -> list[dict[str, str]]:
        """Return every way in which sources of this sink were read."""
        try:
            return [dict(way) for way in json.loads(self._about("reading") or "[]")]
        except (ValueError, TypeError, RecursionError):
            raise SinkError(self._sink, f"{self.path}: its record of how sources were read is damaged") from None

    def set_reading(self, ways: Sequence[Mapping[str, str]]) -> None:
        """Store every way in which sources of this sink were read."""
        self._set_about("reading", json.dumps([dict(way) for way in ways], sort_keys=True))

    def rows_under(self, id: str) -> list[tuple[int, str]]:
        """Return (number, id) of a record and of its parts."""
        with self._mapped():
            return list(self._db.execute("SELECT number, id FROM rows WHERE id = ? OR parent = ?", (id, id)))

    def parts(self, document: Document) -> list[int]:
        """Return the row numbers of a document's parts if it is unchanged and all are in the sink; else []."""
        known = "SELECT n_parts FROM documents WHERE id = ? AND digest = ?"
        with self._mapped():
            found = self._db.execute(known, (document.id, document.digest)).fetchone()
            if found is None:
                return []
            parts = self._db.execute("SELECT number FROM rows WHERE parent = ? AND place IS NOT NULL", (document.id,))
            numbers = [number for (number,) in parts]
        return numbers if len(numbers) == found[0] else []

    def note_documents(self, documents: Sequence[Document]) -> None:
        """Record that all parts of these documents are in the sink."""
        if documents:
            with self._transaction():
                self._put_documents(documents)

    def _put_documents(self, documents: Sequence[Document]) -> None:
        values = [(document.id, document.digest, document.n_parts) for document in documents]
        self._db.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", values)

    def commit(self, write_id: int, entries: Sequence[Entry], job_id: str, documents: Sequence[Document] = ()) -> None:
        """Record that a window is in the sink: its rows, its rejected texts, and the end of its job.

        Documents with parts in the window are removed, except ``documents``, whose parts are now all in the sink.
        """
        with self._transaction():
            parents = {(e.parent,) for e in entries if e.parent}
            self._db.executemany("DELETE FROM documents WHERE id = ?", parents)
            self._put_documents(documents)
            values = [
                (e.number, e.id, e.parent or None, e.digest, e.write_id, e.reason or None, e.detail) for e in entries
            ]
            self._db.executemany(_PUT, values)
            n_rows = sum(e.write_id is not None for e in entries)
            self._db.execute("INSERT OR REPLACE INTO segments VALUES (?, ?)", (write_id, n_rows))
            self._db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def restore(self, found: Iterable[Sequence[tuple[str, bytes, str]]]) -> None:
        """Replace all rows that have a vector by what the sink reports; rejected ones stay."""
        number, write_id = self.next_number(), self.next_write_id()
        put = "INSERT OR REPLACE INTO rows (number, id, digest, parent, place) VALUES (?, ?, ?, ?, ?)"
        with self._transaction():
            self._db.execute("DELETE FROM rows WHERE place IS NOT NULL")
            self._db.execute("DELETE FROM documents")
            for batch in found:
                rows = [
                    (number + i, id, digest, parent or None, write_id) for i, (id, digest, parent) in enumerate(batch)
                ]
                self._db.executemany(put, rows)
                number += len(rows)
            self._db.execute("UPDATE segments SET n_rows = 0")
            count = "SELECT ?, count(*) FROM rows WHERE place IS NOT NULL HAVING count(*) > 0"
            self._db.execute(f"INSERT INTO segments {count}", (write_id,))

    def forget(self, ids: Sequence[str]) -> None:
        """Record that rows were deleted from the sink."""
        with self._transaction():
            self._db.executemany("DELETE FROM rows WHERE id = ?", [(id,) for id in ids])

    def jobs(self) -> set[str]:
        """Return the ids of jobs that an earlier run has left in Redis."""
        with self._mapped():
            return {id for (id,) in self._db.execute("SELECT id FROM jobs")}

    def note_job(self, job_id: str) -> None:
        """Record a job before it is submitted, so that a later run finds it."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO jobs VALUES (?)", (job_id,))

    def drop_job(self, job_id: str) -> None:
        """Record that a job is no longer in Redis."""
        with self._transaction():
            self._db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def all_rows(self) -> Iterator[tuple[int, str, str]]:
        """Return (number, id, parent) of every row; the parts of a document follow each other."""
        with self._mapped():
            for number, id, parent in self._db.execute("SELECT number, id, parent FROM rows ORDER BY parent, number"):
                yield number, id, parent or ""

    def segments(self) -> list[tuple[int, int, int]]:
        """See ``base.LiveRows``."""
        with self._mapped():
            query = """
            SELECT place, n_rows, coalesce(n_live, 0) FROM segments
            LEFT JOIN (SELECT place, count(*) AS n_live FROM rows WHERE place IS NOT NULL GROUP BY place) USING (place)
            ORDER BY place
            """
            return list(self._db.execute(query))

    def ids(self, write_id: int) -> Set[str]:
        """See ``base.LiveRows``."""
        with self._mapped():
            return {id for (id,) in self._db.execute("SELECT id FROM rows WHERE place = ?", (write_id,))}

    def set_row_count(self, write_id: int, rows: int) -> None:
        """See ``base.LiveRows``. The row of the write stays, so that its id is not reused."""
        with self._transaction():
            self._db.execute("UPDATE segments SET n_rows = ? WHERE place = ?", (rows, write_id))

    def _about(self, key: str) -> str:
        """Return a value of ``about``; "" if there is none."""
        with self._mapped():
            found = self._db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return found[0] if found else ""

    def _set_about(self, key: str, value: str) -> None:
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))

    def _above(self, query: str) -> int:
        with self._mapped():
            return int(self._db.execute(query).fetchone()[0] or 0) + 1

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit all changes of the block, or none if it raises."""
        with self._mapped():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn SQLite's errors into SinkError; they name tables and files, never values."""
        try:
            yield
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise SinkError(self._sink, "another reindex is writing to it; wait until it has finished") from None
            reason = f"its ledger {self.path} cannot be used ({error}); if it is damaged, rebuild into another sink"
            raise SinkError(self._sink, self._refused(error) or reason) from None

    def _refused(self, error: sqlite3.Error) -> str:
        """Return a message if the disk is full or a permission is missing; "" otherwise."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return f"no room is left for its ledger {self.path}; make room and run the same command again"
        if code in _REFUSALS or any(map(_is_closed, (self.path, self.path.parent))):
            return f"its ledger {self.path} cannot be written ({error}); {_OTHER_PLACE}"
        return ""


def _is_closed(path: Path) -> bool:
    return os.access(path, os.F_OK) and not os.access(path, os.R_OK | os.W_OK)
