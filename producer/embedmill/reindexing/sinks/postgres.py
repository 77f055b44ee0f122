"""The sink for PostgreSQL with the extension pgvector.

The sink's name is a view of the version in use, which is a table named ``NAME_TAG``. A rebuild fills another table and
then replaces the view in one transaction. The columns are ``id``, ``vector``, ``metadata`` (jsonb), ``text`` and, in
the table only, ``digest``. PostgreSQL cannot hold U+0000; in metadata and texts it becomes U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import psycopg
from pgvector import HalfVector, Vector
from pgvector.psycopg import register_vector
from psycopg import sql

from embedmill.errors import InvalidRequestError, MessageError, SinkError
from embedmill.protocol.vectors import Dtype
from embedmill.reindexing.index import Index
from embedmill.reindexing.record import parent_of
from embedmill.reindexing.sinks.base import Rows, Sink
from embedmill.safe.utf8 import storable
from embedmill.urls import mask_url

T = TypeVar("T")

#: Default table.
DEFAULT_TABLE: Final = "documents"

#: Timeout in seconds of a connection attempt.
CONNECT_S: Final = 30

#: Rows read at a time.
BATCH_ROWS: Final = 1_000

#: Names have at most 63 bytes, of which the version's tag takes nine.
_TABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,53}")
_TYPES: Final[dict[Dtype, tuple[sql.SQL, Any]]] = {
    Dtype.FLOAT32: (sql.SQL("vector"), Vector),
    Dtype.FLOAT16: (sql.SQL("halfvec"), HalfVector),
}


class PostgresSink(Sink):
    """A view and the tables of its versions."""

    has_versions = True
    can_update_metadata = True

    def __init__(self, name: str, *, is_new_version: bool = False) -> None:
        """Parse the name: ``postgresql://USER:PASSWORD@HOST/DATABASE?table=NAME``, with further options of libpq.

        Raises:
            InvalidRequestError: the URL is malformed, or no table can have this name.
        """
        self._given = name
        self._url, self._table = parse(name)
        self.name = mask_url(name)
        self._is_new_version = is_new_version
        self._index: Index | None = None
        self._connection: psycopg.Connection | None = None

    def read_index(self) -> Index | None:
        """Read the index from the view's comment."""
        kind_and_comment = "SELECT relkind, obj_description(oid, 'pg_class') FROM pg_class WHERE oid = to_regclass(%s)"

        def look(connection: psycopg.Connection) -> Any:
            return connection.execute(kind_and_comment, [_quoted(self._table)]).fetchone()

        found = self._run(look)
        if found is None:
            return None
        try:
            if found[0] in ("v", b"v"):
                return Index.from_json(str(found[1]))
        except MessageError:
            pass
        raise SinkError(
            self.name, f"{self._table} belongs to another program; name another table, which will be created as a view"
        )

    def open(self, index: Index) -> None:
        """Create the extension, the version's table and, if there is none, the view."""
        if index.dtype not in _TYPES:
            known = ", ".join(_TYPES)
            raise InvalidRequestError("dtype", f"pgvector can hold {known}, not {index.dtype}")
        self._index = index
        is_new = self.read_index() is None
        kind = _TYPES[index.dtype][0]
        create = sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} (id text PRIMARY KEY, vector {}({}) NOT NULL, metadata jsonb NOT NULL, "
            "text text, digest bytea NOT NULL)"
        ).format(self._version, kind, sql.Literal(index.dimension))

        def make(connection: psycopg.Connection) -> None:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute(create)
            connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(self._version, index.to_json()))
            if is_new:
                self._make_view(connection)

        self._run(make)

    def write(self, rows: Rows) -> None:
        """Insert or replace the rows in one transaction."""
        to_vector = _TYPES[self._opened.dtype][1]
        values = [(rows.ids[i], to_vector(rows.vectors[i]), *_others(rows, i)) for i in range(len(rows))]
        upsert = sql.SQL(
            "INSERT INTO {} (id, vector, metadata, text, digest) VALUES (%s, %b, %s::jsonb, %s, %s) ON CONFLICT (id) "
            "DO UPDATE SET vector = excluded.vector, metadata = excluded.metadata, text = excluded.text, "
            "digest = excluded.digest"
        ).format(self._version)

        def put(connection: psycopg.Connection) -> None:
            register_vector(connection)
            with connection.cursor() as cursor:
                cursor.executemany(upsert, values)

        self._run(put)

    def update_metadata(self, rows: Rows, write_ids: Sequence[int]) -> None:
        """Update all columns but the vectors in one transaction."""
        values = [(*_others(rows, i), rows.ids[i]) for i in range(len(rows))]
        update = sql.SQL("UPDATE {} SET metadata = %s::jsonb, text = %s, digest = %s WHERE id = %s")
        update_of_version = update.format(self._version)

        def put(connection: psycopg.Connection) -> None:
            with connection.cursor() as cursor:
                cursor.executemany(update_of_version, values)

        self._run(put)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete the rows in one transaction."""
        delete = sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(self._version)

        def remove(connection: psycopg.Connection) -> None:
            connection.execute(delete, [list(ids)])

        self._run(remove)

    def count(self) -> int:
        """Return the number of rows in the table."""
        query = sql.SQL("SELECT count(*) FROM {}").format(self._version)

        def ask(connection: psycopg.Connection) -> int:
            row = connection.execute(query).fetchone()
            return int(row[0]) if row else 0

        return self._run(ask)

    def read_digests(self) -> Iterator[Sequence[tuple[str, bytes, str]]]:
        """Read ids and digests, page by page."""
        page = sql.SQL("SELECT id, digest, metadata->'part' FROM {} WHERE id > %s ORDER BY id LIMIT %s")
        page_of_version = page.format(self._version)
        last = ""
        while True:

            def read(connection: psycopg.Connection, after: str = last) -> list[tuple[str, bytes, str]]:
                rows = connection.execute(page_of_version, [after, BATCH_ROWS])
                return [(id, bytes(digest), parent_of(id, part)) for id, digest, part in rows]

            batch = self._run(read)
            if not batch:
                return
            yield batch
            last = batch[-1][0]

    def new_version(self, index: Index) -> Sink:
        """Return a sink for another table; the view stays unchanged."""
        return PostgresSink(self._given, is_new_version=True)

    def activate(self) -> str:
        """Make the view show this version's table."""
        before = self.read_index()
        if not self._is_new_version or before == self._opened:
            return ""

        def replace(connection: psycopg.Connection) -> None:
            connection.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(self._table)))
            self._make_view(connection)

        self._run(replace)
        kept = f"; {self._table}_{before.tag} stays until you drop it" if before else ""
        return f"{self._table} shows {self._table}_{self._opened.tag} now{kept}"

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _make_view(self, connection: psycopg.Connection) -> None:
        view = sql.Identifier(self._table)
        select = sql.SQL("CREATE VIEW {} AS SELECT id, vector, metadata, text FROM {}")
        connection.execute(select.format(view, self._version))
        connection.execute(sql.SQL("COMMENT ON VIEW {} IS {}").format(view, self._opened.to_json()))

    @property
    def _opened(self) -> Index:
        if self._index is None:
            raise RuntimeError("the sink is not open; call open first")
        return self._index

    @property
    def _version(self) -> sql.Identifier:
        return sql.Identifier(f"{self._table}_{self._opened.tag}")

    def _run(self, call: Callable[[psycopg.Connection], T]) -> T:
        """Call in a transaction; reconnect and try once more if the connection was lost."""
        was_connected = self._connection is not None
        with self._mapped():
            try:
                return self._transact(call)
            except psycopg.OperationalError:
                if not was_connected or self._connection is None or not self._connection.closed:
                    raise
            self._connection = None
            return self._transact(call)

    def _transact(self, call: Callable[[psycopg.Connection], T]) -> T:
        if self._connection is None:
            self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=CONNECT_S)
        with self._connection.transaction():
            return call(self._connection)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn psycopg's errors into SinkError, without the server's messages, which may quote values."""
        try:
            yield
        except psycopg.errors.FeatureNotSupported:
            raise SinkError(self.name, "the server does not have pgvector; install its package there") from None
        except psycopg.errors.InsufficientPrivilege:
            raise SinkError(
                self.name, "the user lacks a privilege; CREATE EXTENSION vector may need another user"
            ) from None
        except psycopg.errors.DiskFull:
            raise SinkError(self.name, "the server's disk is full; make room there and run this again") from None
        except psycopg.Error as error:
            code = f", SQLSTATE {error.sqlstate}" if error.sqlstate else ""
            reason = (
                f"PostgreSQL failed ({type(error).__name__}{code}); is it running, and are user and database right?"
            )
            raise SinkError(self.name, reason) from None


def parse(name: str) -> tuple[str, str]:
    """Return the URL for libpq and the table's name.

    Raises:
        InvalidRequestError: the URL is malformed, or no table can have this name.
    """
    try:
        parts = urlsplit(name)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise InvalidRequestError(
            "to", "the URL is malformed; name postgresql://USER:PASSWORD@HOST/DATABASE?table=NAME"
        ) from None
    table = next((value for key, value in query if key == "table"), DEFAULT_TABLE)
    if not _TABLE.fullmatch(table):
        raise InvalidRequestError("to", f"a table's name must match {_TABLE.pattern}")
    rest = urlencode([(key, value) for key, value in query if key != "table"], safe="/")
    # urlunsplit would drop the slashes before an empty host.
    url = f"{parts.scheme}://{parts.netloc}{parts.path}"
    return (f"{url}?{rest}" if rest else url), table


def _others(rows: Rows, i: int) -> tuple[str, str | None, bytes]:
    """Return metadata, text and digest, without U+0000."""
    text = None if rows.texts is None else storable(rows.texts[i]).replace("\0", "\ufffd")
    return rows.metadata[i].replace("\\u0000", "\\ufffd"), text, rows.digests[i]


def _quoted(name: str) -> str:
    return f'"{name}"'


SINKS: Final = {"postgresql:": PostgresSink, "postgres:": PostgresSink}
