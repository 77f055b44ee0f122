"""The sink for Qdrant: a server, or the local files of its client.

The sink's name is an alias of the version in use, which is a collection named ``NAME-TAG``. A rebuild fills another
collection and then moves the alias in one step. A point's payload has ``id``, ``metadata``, ``embedmill`` with the
digest and, with ``with_text``, ``text``. Qdrant itself scales vectors to length 1 for its cosine distance.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from embedmill.errors import InvalidRequestError, MessageError, SinkError
from embedmill.protocol.vectors import Dtype
from embedmill.reindexing.index import Index
from embedmill.reindexing.record import parent_of
from embedmill.reindexing.sinks.base import Rows, Sink
from embedmill.safe.utf8 import storable

#: Environment variable with the API key of a server.
KEY_VARIABLE: Final = "EMBEDMILL_QDRANT_API_KEY"

#: Default collection.
DEFAULT_COLLECTION: Final = "documents"

#: Default port of a server.
DEFAULT_PORT: Final = 6333

_COLLECTION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")

#: Namespace in which record ids become UUIDs: Qdrant takes only UUIDs and numbers as ids of points.
ID_SPACE: Final = uuid.UUID("5f0c3c1e-6f0a-4a52-9d0e-3c6b7a1f2e11")

#: Key of embedmill's data in the metadata of a collection and in payloads.
OURS: Final = "embedmill"

#: Most points in one request.
BATCH_POINTS: Final = 512

#: Timeout in seconds of one request.
TIMEOUT_S: Final = 120

#: Error numbers of a full disk, an exhausted quota and a file at its size limit.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

#: File that is in every folder of local files.
META: Final = "meta.json"

_DATATYPES: Final = {Dtype.FLOAT32: models.Datatype.FLOAT32, Dtype.FLOAT16: models.Datatype.FLOAT16}


class QdrantSink(Sink):
    """An alias and the collections of its versions."""

    has_versions = True
    can_update_metadata = True

    def __init__(self, name: str | Address, *, client: QdrantClient | None = None) -> None:
        """Parse the name. A new version shares the ``client`` of the one in use."""
        self._address = name if isinstance(name, Address) else parse(name)
        self.name = self._address.name
        self._opened: QdrantClient | None = client
        self._index: Index | None = None

    def ledger_path(self, index: Index) -> Path | None:
        """Return a path beside the local files; None for a server."""
        folder = self._address.folder
        if folder is None:
            return None
        return _state_of(folder) / f"{self._address.collection}-{index.tag}.sqlite"

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder of local files and its state folder; empty for a server."""
        folder = self._address.folder
        return () if folder is None else (folder, _state_of(folder))

    def read_index(self) -> Index | None:
        """Read the index from the metadata of the collection that the alias points to."""
        with self._mapped():
            if self._address.folder is not None and not self._holds_files(self._address.folder):
                return None
            collection = self._in_use()
            if collection is None:
                if self._client.collection_exists(self._address.collection):
                    reason = "is a collection of another program; name another one, which will be created as an alias"
                    raise SinkError(self.name, reason)
                return None
            return self._index_of(collection)

    def open(self, index: Index) -> None:
        """Create the version's collection and, if there is none, the alias."""
        if index.dtype not in _DATATYPES:
            known = ", ".join(_DATATYPES)
            raise InvalidRequestError("dtype", f"Qdrant can hold {known}, not {index.dtype}; it can quantize by itself")
        self._index = index
        with self._mapped():
            if not self._client.collection_exists(self._collection):
                vectors = models.VectorParams(
                    size=index.dimension, distance=models.Distance.COSINE, datatype=_DATATYPES[index.dtype]
                )
                metadata = {OURS: index.to_json()}
                self._client.create_collection(self._collection, vectors_config=vectors, metadata=metadata)
            if self._in_use() is None:
                self._point_alias(None)

    def write(self, rows: Rows) -> None:
        """Upsert the points. Qdrant has them on disk when it answers."""
        with self._mapped():
            for start in range(0, len(rows), BATCH_POINTS):
                end = start + BATCH_POINTS
                points = models.Batch(
                    ids=[_point_id(id) for id in rows.ids[start:end]],
                    vectors=rows.vectors[start:end].tolist(),
                    payloads=[_payload(rows, i) for i in range(start, min(end, len(rows)))],
                )
                self._quietly(self._client.upsert, self._collection, points=points, wait=True)

    def update_metadata(self, rows: Rows, write_ids: Sequence[int]) -> None:
        """Overwrite the payloads of the points."""
        with self._mapped():
            for start in range(0, len(rows), BATCH_POINTS):
                steps: list[Any] = [
                    models.OverwritePayloadOperation(
                        overwrite_payload=models.SetPayload(payload=_payload(rows, i), points=[_point_id(rows.ids[i])])
                    )
                    for i in range(start, min(start + BATCH_POINTS, len(rows)))
                ]
                self._client.batch_update_points(self._collection, update_operations=steps, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete the points."""
        with self._mapped():
            for start in range(0, len(ids), BATCH_POINTS):
                points: list[Any] = [_point_id(id) for id in ids[start : start + BATCH_POINTS]]
                selector = models.PointIdsList(points=points)
                self._client.delete(self._collection, points_selector=selector, wait=True)

    def count(self) -> int:
        """Return the number of points in the collection."""
        with self._mapped():
            return int(self._client.count(self._collection, exact=True).count)

    def read_digests(self) -> Iterator[Sequence[tuple[str, bytes, str]]]:
        """Read ids and digests of all points."""
        offset: Any = None
        while True:
            with self._mapped():
                points, offset = self._client.scroll(
                    self._collection, limit=BATCH_POINTS, offset=offset, with_payload=["id", OURS, "metadata.part"]
                )
            try:
                yield [_known(point.payload) for point in points if point.payload]
            except (KeyError, TypeError, ValueError):
                raise SinkError(self.name, f"{self._collection} holds points of another program") from None
            if offset is None:
                return

    def new_version(self, index: Index) -> Sink:
        """Return a sink for another collection; the alias stays unchanged."""
        return QdrantSink(self._address, client=self._client)

    def activate(self) -> str:
        """Make the alias point to this version's collection."""
        with self._mapped():
            before = self._in_use()
            if before == self._collection:
                return ""
            self._point_alias(before)
        return f"{self._address.collection} is {self._collection} now; {before} stays until you delete it"

    def close(self) -> None:
        """Close the client."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            with self._mapped():
                opened.close()

    @property
    def _client(self) -> QdrantClient:
        if self._opened is None:
            self._opened = self._connected()
        return self._opened

    def _connected(self) -> QdrantClient:
        address = self._address
        if address.folder is not None:
            # One thread uses a sink. Without this option, the client asks SQLite whether it is thread-safe, through a
            # connection that it never closes.
            return QdrantClient(path=str(address.folder), force_disable_check_same_thread=True)
        options = {"timeout": TIMEOUT_S, "check_compatibility": False}
        client: QdrantClient = self._quietly(QdrantClient, url=address.url, api_key=address.api_key, **options)
        return client

    @property
    def _collection(self) -> str:
        if self._index is None:
            raise RuntimeError("the sink is not open; call open first")
        return f"{self._address.collection}-{self._index.tag}"

    def _holds_files(self, folder: Path) -> bool:
        """Return whether a folder contains local files of Qdrant; False if it is empty or absent.

        Raises:
            SinkError: it contains other files.
        """
        if not folder.exists():
            return False
        if os.path.lexists(folder / META):
            return True
        if any(folder.iterdir()):
            reason = f"{folder} contains files that are not Qdrant's; name a new folder, as in qdrant+file:NEW"
            raise SinkError(self.name, reason)
        return False

    def _in_use(self) -> str | None:
        aliases = self._client.get_aliases().aliases
        return next((a.collection_name for a in aliases if a.alias_name == self._address.collection), None)

    def _index_of(self, collection: str) -> Index:
        metadata = self._client.get_collection(collection).config.metadata or {}
        try:
            return Index.from_json(str(metadata[OURS]))
        except (KeyError, MessageError):
            raise SinkError(
                self.name, f"is an alias of {collection}, a collection of another program; name another one"
            ) from None

    def _point_alias(self, before: str | None) -> None:
        alias = self._address.collection
        steps: list[Any] = []
        if before is not None:
            steps.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
        create = models.CreateAlias(collection_name=self._collection, alias_name=alias)
        steps.append(models.CreateAliasOperation(create_alias=create))
        self._client.update_collection_aliases(change_aliases_operations=steps)

    @staticmethod
    def _quietly(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call without warnings that local files suit small collections only, or that a key is sent unencrypted."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return call(*args, **options)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn the client's errors into SinkError, without their messages, which may quote payloads."""
        try:
            yield
        except PermissionError as error:
            reason = f"{error.filename} cannot be written: {error.strerror}; name a folder that you may write"
            raise SinkError(self.name, reason) from None
        except (ApiException, OSError, ValueError, sqlite3.Error) as error:
            raise SinkError(self.name, _reason(error, self._address.folder)) from None
        except RuntimeError as error:
            if "already accessed" not in str(error):
                raise
            raise SinkError(
                self.name,
                "another program has the folder open; close that, or use a Qdrant server",
            ) from None


def _state_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.embedmill")


def _known(payload: dict[str, Any]) -> tuple[str, bytes, str]:
    id, part = str(payload["id"]), payload.get("metadata", {}).get("part")
    return id, bytes.fromhex(payload[OURS]["digest"]), parent_of(id, part)


def _point_id(id: str) -> str:
    return str(uuid.uuid5(ID_SPACE, id))


def _payload(rows: Rows, i: int) -> dict[str, Any]:
    payload = {"id": rows.ids[i], "metadata": json.loads(rows.metadata[i]), OURS: {"digest": rows.digests[i].hex()}}
    if rows.texts is not None:
        payload["text"] = storable(rows.texts[i])
    return payload


def _reason(error: Exception, folder: Path | None) -> str:
    """Return what has failed, and the hint. ``folder`` is that of the local files; None for a server."""
    kind = type(error).__name__
    if folder is None:
        return f"Qdrant failed ({kind}{_status(error)}); is it running, and is the key right?"
    if _is_full(error):
        return f"no room is left for {folder}; make room and run the same command again"
    if isinstance(error, OSError):
        return f"{error.filename or folder} cannot be written: {error.strerror or kind}"
    if isinstance(error, sqlite3.Error):  # SQLite names tables and files, never values
        return f"{folder} cannot be read or written: {error}"
    return f"the files of Qdrant's client in {folder} cannot be used ({kind}); restore them, or name a new folder"


def _is_full(error: Exception) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in _FULL


def _status(error: Exception) -> str:
    code = getattr(error, "status_code", None)
    return f", status {code}" if code else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The address of a collection."""

    collection: str
    #: Folder of the local files; None for a server.
    folder: Path | None = None
    url: str = ""
    api_key: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Name for messages, without the key."""
        if self.folder is not None:
            return f"qdrant+file:{self.folder}#{self.collection}"
        return f"{self.url.replace('http', 'qdrant', 1)}/{self.collection}"


def parse(name: str) -> Address:
    """Parse ``qdrant://HOST[:PORT]/COLLECTION``, ``qdrants://…`` (TLS) or ``qdrant+file:FOLDER[#COLLECTION]``.

    A server's API key is the URL's password, or ``EMBEDMILL_QDRANT_API_KEY``.

    Raises:
        InvalidRequestError: the name has none of these forms.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "qdrant+file":
        folder, _, collection = rest.partition("#")
        if Path(folder).name in ("", ".."):
            raise InvalidRequestError(
                "to", "qdrant+file: lacks the name of a folder; name one, as in qdrant+file:vectors"
            )
        return Address(collection=_checked(collection or DEFAULT_COLLECTION), folder=Path(folder))
    try:
        parts = urlsplit(name)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise InvalidRequestError(
            "to", "the host or the port is malformed; name qdrant://HOST[:PORT]/COLLECTION"
        ) from None
    if not parts.hostname:
        raise InvalidRequestError("to", "the host is missing; name qdrant://HOST[:PORT]/COLLECTION")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(
        collection=_checked(unquote(parts.path.strip("/")) or DEFAULT_COLLECTION),
        url=f"{'https' if scheme == 'qdrants' else 'http'}://{host}:{port}",
        api_key=unquote(parts.password) if parts.password else os.environ.get(KEY_VARIABLE) or None,
    )


def _checked(collection: str) -> str:
    if not _COLLECTION.fullmatch(collection):
        raise InvalidRequestError("to", f"a collection's name must match {_COLLECTION.pattern}")
    return collection


SINKS: Final = {"qdrant:": QdrantSink, "qdrants:": QdrantSink, "qdrant+file:": QdrantSink}
