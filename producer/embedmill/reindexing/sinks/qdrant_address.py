"""Where a Qdrant collection is, by its name. No I/O but the look at one variable."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from embedmill.errors import InvalidRequestError

#: Variable that holds the key of a server.
KEY_VARIABLE: Final = "EMBEDMILL_QDRANT_API_KEY"

#: Of a collection that no name says.
DEFAULT_COLLECTION: Final = "documents"

#: Where a server listens unless its name says.
DEFAULT_PORT: Final = 6333

_COLLECTION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a collection is."""

    collection: str
    #: Folder of the client's own files; None: a server.
    folder: Path | None = None
    url: str = ""
    api_key: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """For people."""
        if self.folder is not None:
            return f"qdrant+file:{self.folder}#{self.collection}"
        return f"{self.url.replace('http', 'qdrant', 1)}/{self.collection}"


def parse(name: str) -> Address:
    """Read ``qdrant://HOST[:PORT]/COLLECTION``, ``qdrants://…`` (TLS) or ``qdrant+file:FOLDER[#COLLECTION]``.

    A server's key is the URL's password, or ``EMBEDMILL_QDRANT_API_KEY``.

    Raises:
        InvalidRequestError: it is none of these.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "qdrant+file":
        folder, _, collection = rest.partition("#")
        if Path(folder).name in ("", ".."):
            raise InvalidRequestError("to", "qdrant+file:FOLDER names a folder of its own, as in qdrant+file:vectors")
        return Address(collection=_checked(collection or DEFAULT_COLLECTION), folder=Path(folder))
    try:
        parts = urlsplit(name)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise InvalidRequestError("to", "qdrant://HOST[:PORT]/COLLECTION has no such port") from None
    if not parts.hostname:
        raise InvalidRequestError("to", "qdrant://HOST[:PORT]/COLLECTION names the host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(
        collection=_checked(unquote(parts.path.strip("/")) or DEFAULT_COLLECTION),
        url=f"{'https' if scheme == 'qdrants' else 'http'}://{host}:{port}",
        api_key=unquote(parts.password) if parts.password else os.environ.get(KEY_VARIABLE) or None,
    )


def _checked(collection: str) -> str:
    if not _COLLECTION.fullmatch(collection):
        raise InvalidRequestError("to", f"a collection's name matches {_COLLECTION.pattern}")
    return collection
