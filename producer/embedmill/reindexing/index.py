"""The model and options that all vectors of a sink share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from embedmill.errors import MessageError
from embedmill.limits import MAX_DIMENSION
from embedmill.protocol.codec import is_label
from embedmill.protocol.vectors import Dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Model and options of the vectors in a sink. Vectors of two different ones must not be mixed in one sink."""

    model: str
    fingerprint: str
    #: Components of a vector.
    dimension: int
    dtype: Dtype = Dtype.FLOAT32
    #: ``passage``, ``query``, or None for no prefix.
    input_type: str | None = None
    #: Whether texts longer than the model reads are truncated instead of rejected.
    truncate: bool = True
    #: Whether rows store their texts.
    with_text: bool = False
    #: Where the model was fetched from, as "org/name@commit". Only the fingerprint is compared.
    revision: str = field(default="", compare=False)

    @property
    def columns(self) -> int:
        """Array items per vector; see ``Dtype.columns``."""
        return self.dtype.columns(self.dimension)

    @property
    def row_bytes(self) -> int:
        """Bytes per vector."""
        return self.columns * self.dtype.numpy.itemsize

    @property
    def tag(self) -> str:
        """Eight hex digits that end the name of a version."""
        return hashlib.blake2b(self.identity.encode(), digest_size=4).hexdigest()

    @property
    def identity(self) -> str:
        """One line of JSON with every field that is compared."""
        return json.dumps(self._compared, sort_keys=True)

    @property
    def _compared(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.compare}

    def to_json(self) -> str:
        """Return all fields as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, data: str | bytes) -> Index:
        """Read what ``to_json`` wrote.

        Raises:
            MessageError: it is not such a line.
        """
        try:
            stated: dict[str, Any] = json.loads(data)
            index = cls(**{**stated, "dtype": Dtype(stated["dtype"])})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MessageError(f"a sink's description cannot be read ({type(error).__name__})") from None
        names = (index.model, index.fingerprint, index.input_type or "", index.revision)
        is_whole = type(index.dimension) is int and 0 < index.dimension <= MAX_DIMENSION
        if not (is_whole and all(map(is_label, names)) and type(index.truncate) is type(index.with_text) is bool):
            raise MessageError("a sink's description has a field with a value that reindex does not write")
        return index

    def differences(self, other: Index) -> str:
        """Return what differs, for a message, as in ``dimension 384 and 128``."""
        ours, theirs = self._compared, other._compared
        return ", ".join(f"{name} {ours[name]} and {theirs[name]}" for name in ours if ours[name] != theirs[name])
