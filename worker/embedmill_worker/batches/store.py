"""Files and batches on this host's disk: their bytes in a folder, all else in SQLite beside them.

Several gateways of one host share a store. Every method blocks: an event loop calls them in threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from embedmill.safe.atomic_file import sync_folder
from embedmill_worker.batches.objects import Batch, Progress, Status, StoredFile
from embedmill_worker.gateway.refusals import Kind, RefusedError

#: Seconds that a change waits for those of other gateways.
BUSY_S: Final = 20.0

#: Bytes that the smallest file counts as: a block of the disk and its entries.
LEAST_BYTES: Final = 4_096

#: Most batches of one API key that have not ended, and that have: older ones are forgotten.
MAX_UNFINISHED: Final = 1_000
MAX_ENDED: Final = 10_000

#: What the disk says when it is full, or when this user may have no more of it.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    n_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
);
CREATE INDEX IF NOT EXISTS files_by_owner ON files (owner, seq);
CREATE TABLE IF NOT EXISTS batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    is_over INTEGER NOT NULL,
    input_file_id TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS batches_by_owner ON batches (owner, seq);
CREATE INDEX IF NOT EXISTS unfinished_batches ON batches (is_over, seq);
"""

_INSERT_FILE: Final = """
INSERT INTO files (id, owner, filename, purpose, n_bytes, created_at, expires_at)
VALUES (:id, :owner, :filename, :purpose, :n_bytes, :created_at, :expires_at)
"""

_FIND_FILE: Final = """
SELECT id, owner, filename, purpose, n_bytes, created_at, expires_at FROM files
WHERE id = :id AND owner = :owner AND (expires_at IS NULL OR expires_at > :now_s)
"""

#: Order → query of a page.
_LIST_FILES: Final = {
    "asc": """
SELECT id, owner, filename, purpose, n_bytes, created_at, expires_at FROM files
WHERE owner = :owner AND (expires_at IS NULL OR expires_at > :now_s) AND (:purpose IS NULL OR purpose = :purpose)
AND (:after IS NULL OR seq > :after) ORDER BY seq ASC LIMIT :limit
""",
    "desc": """
SELECT id, owner, filename, purpose, n_bytes, created_at, expires_at FROM files
WHERE owner = :owner AND (expires_at IS NULL OR expires_at > :now_s) AND (:purpose IS NULL OR purpose = :purpose)
AND (:after IS NULL OR seq < :after) ORDER BY seq DESC LIMIT :limit
""",
}

_LIST_BATCHES: Final = """
SELECT data FROM batches WHERE owner = :owner AND (:after IS NULL OR seq < :after) ORDER BY seq DESC LIMIT :limit
"""

_FORGET_BATCHES: Final = """
DELETE FROM batches WHERE seq IN
(SELECT seq FROM batches WHERE owner = ? AND is_over = 1 ORDER BY seq DESC LIMIT -1 OFFSET ?)
"""

#: Table → query of an object's place in it.
_POSITION: Final = {
    "files": "SELECT seq FROM files WHERE id = ? AND owner = ?",
    "batches": "SELECT seq FROM batches WHERE id = ? AND owner = ?",
}


def new_id(prefix: str) -> str:
    """Return an id that nobody can guess."""
    return prefix + secrets.token_hex(16)


class FileLock:
    """A lock on a file that ends with its process, however that ends."""

    def __init__(self, path: Path, *, mode: int = 0o600) -> None:
        """Take the lock; the file is created with this mode, less the umask, if it is not there.

        Raises:
            BlockingIOError: another process, or another object of this one, has it.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


class Upload:
    """A file that arrives. It is removed unless the store takes it; a lock shows sweepers that somebody writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_bytes = 0
        self._file = path.open("xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(FileNotFoundError):  # the store has taken it
            self.path.unlink()
        self._file.close()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            RefusedError: the disk is full.
        """
        view = memoryview(data)
        with refusing_when_full():
            while view:
                view = view[self._file.write(view) :]
        self.n_bytes += len(data)

    def sync(self) -> None:
        """Flush the bytes to disk.

        Raises:
            RefusedError: the disk is full.
        """
        with refusing_when_full():
            os.fsync(self._file.fileno())


class FileStore:
    """The files and batches of one namespace."""

    def __init__(self, folder: Path) -> None:
        """Open or create a store, and remove what killed processes have left.

        Raises:
            OSError: the folder cannot be written.
            sqlite3.Error: the database cannot be read.
        """
        self._folder = folder
        for each in (folder, self._uploads, self._bytes, self._locks):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._mutex = threading.Lock()
        self._database = sqlite3.connect(
            folder / "files.sqlite3", timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._database.executescript(_SCHEMA)
            self.sweep_leftovers()
        except BaseException:
            self._database.close()
            raise

    @property
    def _uploads(self) -> Path:
        return self._folder / "uploads"

    @property
    def _bytes(self) -> Path:
        return self._folder / "bytes"

    @property
    def _locks(self) -> Path:
        return self._folder / "locks"

    def close(self) -> None:
        """Close the database."""
        with self._mutex:
            self._database.close()

    def path(self, file_id: str) -> Path:
        """Return where the bytes of a file are; the id is one that the store has given."""
        return self._bytes / file_id

    def lock(self, batch_id: str) -> FileLock | None:
        """Return the lock of a batch, which one process of this host has at a time; None: it is taken."""
        try:
            return FileLock(self._locks / batch_id)
        except BlockingIOError:
            return None

    # --- files ----------------------------------------------------------------------------------------------------

    def new_upload(self) -> Upload:
        """Begin a file that arrives.

        Raises:
            RefusedError: the disk is full.
        """
        with refusing_when_full():
            return Upload(self._uploads / secrets.token_hex(16))

    def held_bytes(self, owner: str) -> int:
        """Return the bytes that count against an owner's quota."""
        with self._reading() as database:
            return self._held_bytes(database, owner)

    def _held_bytes(self, database: sqlite3.Connection, owner: str) -> int:
        query = "SELECT COALESCE(SUM(MAX(n_bytes, ?)), 0) FROM files WHERE owner = ?"
        (found,) = database.execute(query, (LEAST_BYTES, owner)).fetchone()
        return int(found)

    def add_file(self, upload: Upload, file: StoredFile, *, max_bytes: int) -> None:
        """Take a file that has arrived; it is on disk when this returns.

        Args:
            upload: its bytes.
            file: all else.
            max_bytes: that the owner may have; 0: any.

        Raises:
            RefusedError: the owner has too many, or the disk is full.
        """
        upload.sync()
        with self._writing() as database:
            check_quota(self._held_bytes(database, file.owner) + max(file.n_bytes, LEAST_BYTES), max_bytes)
            self._insert_file(database, file)
            try:
                upload.path.rename(self.path(file.id))
                sync_folder(self._bytes)
                database.execute("COMMIT")
            except BaseException:
                self.path(file.id).unlink(missing_ok=True)
                raise

    def _insert_file(self, database: sqlite3.Connection, file: StoredFile) -> None:
        database.execute(_INSERT_FILE, asdict(file))

    def file(self, file_id: str, owner: str, now_s: float) -> StoredFile:
        """Return a file of an owner.

        Raises:
            RefusedError: the owner has no such file, or no longer.
        """
        with self._reading() as database:
            row = database.execute(_FIND_FILE, {"id": file_id, "owner": owner, "now_s": now_s}).fetchone()
        if row is None:
            raise RefusedError(Kind.NOT_FOUND, "No such File object", param="id")
        return _file(row)

    def files(
        self, owner: str, now_s: float, *, after: str | None, limit: int, order: str, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        """Return a page of an owner's files, and whether there are more.

        Raises:
            RefusedError: the owner has no file ``after``.
        """
        values = {"owner": owner, "now_s": now_s, "purpose": purpose, "limit": limit + 1}
        with self._reading() as database:
            values["after"] = _position(database, "files", after, owner)
            rows = database.execute(_LIST_FILES[order], values).fetchall()
        return [_file(row) for row in rows[:limit]], len(rows) > limit

    def delete_file(self, file_id: str, owner: str) -> None:
        """Delete a file of an owner.

        Raises:
            RefusedError: the owner has no such file, or a batch that has not ended reads it.
        """
        with self._writing() as database:
            used = database.execute(
                "SELECT 1 FROM batches WHERE is_over = 0 AND input_file_id = ? AND owner = ?", (file_id, owner)
            )
            if used.fetchone():
                raise RefusedError(Kind.CONFLICT, "A batch reads this file; wait for its end, or cancel it", param="id")
            done = database.execute("DELETE FROM files WHERE id = ? AND owner = ?", (file_id, owner))
            if not done.rowcount:
                raise RefusedError(Kind.NOT_FOUND, "No such File object", param="id")
        self.path(file_id).unlink(missing_ok=True)

    # --- batches --------------------------------------------------------------------------------------------------

    def add_batch(self, batch: Batch) -> None:
        """Add a batch.

        Raises:
            RefusedError: the owner has too many that have not ended, or its input file has gone.
        """
        with self._writing() as database:
            query = "SELECT COUNT(*) FROM batches WHERE is_over = 0 AND owner = ?"
            (count,) = database.execute(query, (batch.owner,)).fetchone()
            if count >= MAX_UNFINISHED:
                raise RefusedError(Kind.QUOTA, f"At most {MAX_UNFINISHED} batches of an API key may be unfinished")
            query = "SELECT 1 FROM files WHERE id = ? AND owner = ?"
            if not database.execute(query, (batch.input_file_id, batch.owner)).fetchone():
                raise RefusedError(Kind.NOT_FOUND, "No such File object", param="input_file_id")
            database.execute(
                "INSERT INTO batches (id, owner, is_over, input_file_id, data) VALUES (?, ?, 0, ?, ?)",
                (batch.id, batch.owner, batch.input_file_id, _pack(batch)),
            )
            database.execute(_FORGET_BATCHES, (batch.owner, MAX_ENDED))

    def batch(self, batch_id: str, owner: str | None = None) -> Batch:
        """Return a batch of an owner, or of any if None.

        Raises:
            RefusedError: there is no such batch.
        """
        with self._reading() as database:
            return self._batch(database, batch_id, owner)

    def _batch(self, database: sqlite3.Connection, batch_id: str, owner: str | None) -> Batch:
        query = "SELECT data FROM batches WHERE id = ? AND (? IS NULL OR owner = ?)"
        row = database.execute(query, (batch_id, owner, owner)).fetchone()
        if row is None:
            raise RefusedError(Kind.NOT_FOUND, "No such Batch object", param="id")
        return _unpack(row[0])

    def batches(self, owner: str, *, after: str | None, limit: int) -> tuple[list[Batch], bool]:
        """Return a page of an owner's batches, the newest first, and whether there are more.

        Raises:
            RefusedError: the owner has no batch ``after``.
        """
        with self._reading() as database:
            place = _position(database, "batches", after, owner)
            rows = database.execute(_LIST_BATCHES, {"owner": owner, "after": place, "limit": limit + 1}).fetchall()
        return [_unpack(row[0]) for row in rows[:limit]], len(rows) > limit

    def unfinished(self) -> Sequence[tuple[str, str]]:
        """Return (id, owner) of the batches that have not ended, the oldest first."""
        with self._reading() as database:
            rows: list[tuple[str, str]] = database.execute(
                "SELECT id, owner FROM batches WHERE is_over = 0 ORDER BY seq"
            ).fetchall()
        return rows

    def is_ending(self, batch_id: str, now_s: float) -> bool:
        """Return whether a batch has been cancelled or has expired, and only has to be ended."""
        batch = self.batch(batch_id)
        return batch.status is Status.CANCELLING or now_s >= batch.expires_at

    def update(
        self, batch_id: str, change: Callable[[Batch], Batch], *, owner: str | None = None, files: int | None = None
    ) -> Batch:
        """Change a batch and return it; it is on disk when this returns.

        Args:
            batch_id: its id.
            change: returns the changed batch; may raise.
            owner: whose it must be; None: anybody's.
            files: seconds since 1970 at which files expire: those that the batch has written become files.

        Raises:
            RefusedError: there is no such batch, or the disk is full.
        """
        with self._writing() as database:
            batch = change(self._batch(database, batch_id, owner))
            values = (_pack(batch), batch.status.is_over, batch_id)
            database.execute("UPDATE batches SET data = ?, is_over = ? WHERE id = ?", values)
            if files is not None:
                for file in _written(batch, batch.progress, files):
                    self._insert_file(database, file)
        return batch

    def clean_up(self, batch: Batch) -> None:
        """Remove what an ended batch leaves besides its files."""
        for file_id, n_bytes in (
            (batch.output_id, batch.progress.output_bytes),
            (batch.error_id, batch.progress.error_bytes),
        ):
            if not n_bytes:
                self.path(file_id).unlink(missing_ok=True)
        (self._locks / batch.id).unlink(missing_ok=True)

    # --- what nobody needs any more -------------------------------------------------------------------------------

    def sweep(self, now_s: float, max_age_s: float) -> int:
        """Delete the files that have expired, and batches that ended long ago; return the number of files."""
        with self._writing() as database:
            query = (
                "SELECT id FROM files WHERE expires_at <= ? AND id NOT IN"
                " (SELECT input_file_id FROM batches WHERE is_over = 0)"
            )
            ids = [row[0] for row in database.execute(query, (now_s,)).fetchall()]
            database.executemany("DELETE FROM files WHERE id = ?", [(each,) for each in ids])
            rows = database.execute("SELECT id, data FROM batches WHERE is_over = 1 ORDER BY seq LIMIT 100").fetchall()
            old = [(name,) for name, data in rows if _unpack(data).expires_at + max_age_s < now_s]
            database.executemany("DELETE FROM batches WHERE id = ?", old)
        for each in ids:
            self.path(each).unlink(missing_ok=True)
        return len(ids)

    def sweep_leftovers(self) -> None:
        """Remove uploads whose process has died, bytes that no file and no batch has, and locks of ended batches."""
        for path in self._uploads.iterdir():
            with suppress(FileNotFoundError, BlockingIOError), closing(_Descriptor(path)) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        with self._writing() as database:
            known = {row[0] for row in database.execute("SELECT id FROM files").fetchall()}
            unfinished = [
                (name, _unpack(data))
                for name, data in database.execute("SELECT id, data FROM batches WHERE is_over = 0").fetchall()
            ]
            known.update(each for _, batch in unfinished for each in (batch.output_id, batch.error_id))
            for path in self._bytes.iterdir():
                if path.name not in known:
                    path.unlink(missing_ok=True)
            running = {name for name, _ in unfinished}
            for path in self._locks.iterdir():
                if path.name not in running:
                    path.unlink(missing_ok=True)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, refusing_when_full():
            yield self._database

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Begin a transaction that no other process shares, and commit it if the block succeeds."""
        with self._mutex, refusing_when_full():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                if self._database.in_transaction:
                    self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite itself has rolled back, as it does when the disk is full
                    self._database.execute("ROLLBACK")
                raise


class _Descriptor:
    """An open file of another process."""

    def __init__(self, path: Path) -> None:
        self._number = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Return the number of the open file."""
        return self._number

    def close(self) -> None:
        """Close the file."""
        os.close(self._number)


@contextmanager
def refusing_when_full() -> Iterator[None]:
    """Turn what the disk says when it is full into a refusal.

    Raises:
        RefusedError: the disk is full, or the database cannot be written now.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RefusedError(Kind.STORAGE_FULL, "The disk of the gateway is full; nothing was stored") from None
        raise
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            raise RefusedError(Kind.STORAGE_FULL, "The disk of the gateway is full; nothing was stored") from None
        raise RefusedError(Kind.UNAVAILABLE, "The files of the gateway cannot be reached now; try again") from None


def check_quota(n_bytes: int, max_bytes: int) -> None:
    """Raise RefusedError if an owner would have more bytes than it may; ``max_bytes`` 0: any."""
    if max_bytes and n_bytes > max_bytes:
        message = f"The files of this API key may have {max_bytes} bytes in all; delete some of them"
        raise RefusedError(Kind.QUOTA, message)


def _position(database: sqlite3.Connection, table: str, name: str | None, owner: str) -> int | None:
    """Return the place of an object; None: no object is named."""
    if name is None:
        return None
    row = database.execute(_POSITION[table], (name, owner)).fetchone()
    if row is None:
        raise RefusedError(Kind.INVALID, "'after' is not the id of an object in the list", param="after")
    return int(row[0])


def _file(row: Sequence[Any]) -> StoredFile:
    names = (each.name for each in fields(StoredFile))
    return StoredFile(**dict(zip(names, row, strict=True)))


def _written(batch: Batch, progress: Progress, expires_at: int) -> Iterator[StoredFile]:
    """Yield the files that a batch has written, if they hold a line."""
    both = (("output", batch.output_id, progress.output_bytes), ("error", batch.error_id, progress.error_bytes))
    for what, file_id, n_bytes in both:
        if n_bytes:
            yield StoredFile(
                id=file_id,
                owner=batch.owner,
                filename=f"{batch.id}_{what}.jsonl",
                purpose="batch_output",
                n_bytes=n_bytes,
                created_at=_ended_at(batch),
                expires_at=expires_at,
            )


def _ended_at(batch: Batch) -> int:
    times = batch.times
    return times.completed_at or times.expired_at or times.cancelled_at or batch.created_at


def _pack(batch: Batch) -> bytes:
    return msgspec.json.encode(batch)


def _unpack(data: bytes) -> Batch:
    return msgspec.json.decode(data, type=Batch)


def ended(batch: Batch, status: Status, now_s: int) -> Batch:
    """Return a batch that has come into a state."""
    return replace(batch, status=status, times=replace(batch.times, **{f"{status}_at": now_s}))
