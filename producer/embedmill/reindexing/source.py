"""Where records come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from embedmill.errors import InvalidRequestError
from embedmill.reindexing.record import BadRecord, Record

#: Reason of something that holds no text.
UNREADABLE: Final = "unreadable"

#: Reason of a record whose id or metadata cannot be kept.
UNFIT: Final = "unfit"


class Source(Protocol):
    """Something that can be read from its beginning, in the same order each time."""

    #: For people.
    name: str

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Give the records, holding a bounded number in memory.

        Raises:
            SourceError: it cannot be read on.
        """
        ...

    def fraction(self) -> float | None:
        """Say how much of it has been read, 0 to 1; None: nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Which field of an object is what."""

    text: str = "text"
    #: A record without it has its place for an id, as in ``corpus.jsonl:17``.
    id: str = "id"
    #: Fields that are carried along; None: all others.
    metadata: tuple[str, ...] | None = None

    def record(self, fields: Mapping[str, Any], place: str) -> Record | BadRecord:
        """Make a record of an object; place: its id, if it names none."""
        if self.text not in fields:
            return bad(place, f"has no field {self.text!r}; name the right one as the text field")
        text, given = fields[self.text], fields.get(self.id)
        if not isinstance(text, str):
            return bad(place, f"holds {type(text).__name__}, not str, in {self.text!r}")
        if given is not None and (isinstance(given, bool | float) or not isinstance(given, str | int)):
            return bad(place, f"holds {type(given).__name__}, neither str nor int, in {self.id!r}")
        if self.metadata is None:
            metadata = {key: value for key, value in fields.items() if key not in (self.text, self.id)}
        else:
            metadata = {key: fields[key] for key in self.metadata if key in fields}
        return to_record(place if given is None else str(given), text, metadata, place)


def to_record(id: str, text: str, metadata: Mapping[str, Any], place: str) -> Record | BadRecord:
    """Make a record, or say why there can be none."""
    try:
        return Record(id=id, text=text, metadata=metadata)
    except InvalidRequestError as error:
        return BadRecord(id=place, reason=UNFIT, detail=str(error))


def bad(place: str, detail: str) -> BadRecord:
    """Give what holds no text."""
    return BadRecord(id=place, reason=UNREADABLE, detail=f"{place} {detail}")


class Values:
    """Records from a program: ``Record``, ``(id, text)``, ``(id, text, metadata)``, or a mapping of fields."""

    name = "values"

    def __init__(self, values: Iterable[Any], fields: Fields | None = None) -> None:
        self._values = values
        self._fields = fields or Fields()

    def __iter__(self) -> Iterator[Record | BadRecord]:
        for number, value in enumerate(self._values, start=1):
            yield self._record(value, f"values:{number}")

    def fraction(self) -> float | None:
        """Nobody knows how many there will be."""
        return None

    def _record(self, value: Any, place: str) -> Record | BadRecord:
        match value:
            case Record() | BadRecord():
                return value
            case Mapping():
                return self._fields.record(value, place)
            case (str() as id, str() as text) | [str() as id, str() as text]:
                return to_record(id, text, {}, place)
            case (str() as id, str() as text, Mapping() as metadata):
                return to_record(id, text, metadata, place)
        return bad(place, f"is {_kind(value)}; a Record, (id, text), (id, text, metadata) or a mapping is wanted")


def _kind(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"{type(value).__name__} of {', '.join(type(item).__name__ for item in value[:4])}"
    return type(value).__name__
