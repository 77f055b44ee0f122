"""The interface of sources, which yield records, and the source for values of a program."""

from __future__ import annotations

import numbers
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import Any, Final, Protocol, TypeVar

from embedmill.errors import InvalidRequestError
from embedmill.reindexing.metadata import shown
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reply import Reason

T = TypeVar("T")

#: Name of standard input.
STDIN: Final = "-"

#: Reason of an item without a readable text.
UNREADABLE: Final = "unreadable"

#: Reason of a record whose id or metadata cannot be stored.
UNFIT: Final = "unfit"

#: Marks an absent field, since None may be a value.
_ABSENT: Final = object()


class Source(Protocol):
    """A sequence of records that can be read several times, in the same order each time.

    It may have ``notes``, a list of messages that is filled while it is read, for example about skipped files. It may
    also have ``ways`` and ``origins``, by which another source is not taken for it: see ``ways_of`` and ``origins_of``.
    """

    #: Name for messages.
    name: str

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Yield the records, with a bounded number of them in memory.

        Raises:
            SourceError: it cannot be read any further.
        """
        ...

    def fraction(self) -> float | None:
        """Return the share of the source that has been read, 0 to 1; None if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The meaning of an object's fields. A name with dots that no field has is a path, as in ``doc.body``."""

    text: str = "text"
    #: Records without this field get their position as id, as in ``corpus.jsonl:17``; "" does so for all records.
    id: str = "id"
    #: Fields that become metadata; None takes all others.
    metadata: tuple[str, ...] | None = None

    def way(self, source: str = "values of a program") -> Mapping[str, str]:
        """Return the way of reading a source with these fields; see ``ways.py``."""
        return {"source": source, "text field": self.text, "id field": self.id}

    def record(self, fields: Mapping[str, Any], place: str) -> Record | BadRecord:
        """Return an object as a record. ``place`` is its position, and its id if it has none."""
        text = fields[self.text] if self.text in fields else find(fields, self.text)
        if text is _ABSENT:
            return bad(place, f"has no field {shown(self.text)}; name the text field (--text-field)")
        given = fields[self.id] if self.id in fields else find(fields, self.id)
        try:
            id = given if type(given) is str else _id(given, place)
        except TypeError:
            return bad(place, f"holds {type(given).__name__}, neither str nor int, in {shown(self.id)}")
        if isinstance(text, bytes):  # some programs write text into Parquet as bytes
            text = text.decode("utf-8", "surrogateescape")
        if not isinstance(text, str):
            return bad(place, f"holds {type(text).__name__}, not str, in {shown(self.text)}")
        return to_record(id, text, self.carried(fields), place)

    def carried(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the metadata of an object."""
        if self.metadata is None:
            text, id = self.text, self.id
            rest = {key: value for key, value in fields.items() if key != text and key != id}  # noqa: PLR1714  faster
            for path in (text, id):
                if path not in fields and "." in path:
                    rest = _without(rest, path)
            return rest
        found = ((name, find(fields, name)) for name in self.metadata)
        return {name: value for name, value in found if value is not _ABSENT}

    def wants(self, column: str) -> bool:
        """Return whether a column, or a field within it, is needed."""
        if self.metadata is None:
            return True
        return any(name == column or name.startswith(f"{column}.") for name in (self.text, self.id, *self.metadata))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The options for reading files."""

    fields: Fields = field(default_factory=Fields)
    #: Delimiter of CSV; "" means a comma, or a tab in ``.tsv``.
    delimiter: str = ""
    #: Encoding of files without a byte order mark.
    encoding: str = "utf-8"
    #: Metadata of every record from the folder names of a partitioned data set, as in ``year=2026``.
    partition: Mapping[str, Any] = field(default_factory=dict)

    def way(self, path: str, form: str, kinds: Iterable[str] | None = ()) -> Mapping[str, str]:
        """Return the way of reading a file or folder; ``kinds`` is None if unknown. See ``ways.py``."""
        return {
            **self.fields.way("standard input" if path == STDIN else os.path.realpath(path)),
            "format": form,
            **({} if kinds is None else {"kinds": " ".join(sorted(kinds))}),
            "delimiter": self.delimiter,
            "encoding": self.encoding,
        }


@dataclass(frozen=True, slots=True)
class Form:
    """A form of files; see ``formats``, and ``files`` for what readers have in common."""

    #: Returns the source that reads a file. Takes its path, the name with which ids made of positions begin, and how it
    #: is read. Raises SourceError if the file cannot be read, InvalidRequestError if it cannot be read in this way.
    reader: Callable[[str, str, Reading], Source]
    _: KW_ONLY
    #: Endings of the files' names, in small letters; empty: only ``--format`` or the beginning selects this form.
    endings: tuple[str, ...] = ()
    #: First bytes of binary files of this form; files with these endings that begin otherwise are read as text.
    begins: tuple[bytes, ...] = ()
    #: Whether files without these endings have this form, too, if they begin so and contain NUL bytes.
    is_known_by_its_beginning: bool = False

    def is_form_of(self, head: bytes, suffix: str) -> bool:
        """Return whether a binary file with this beginning and this ending has this form."""
        is_named = suffix in self.endings or (self.is_known_by_its_beginning and b"\x00" in head)
        return is_named and head.startswith(self.begins)


def find(fields: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path, or a mark that ``is_absent`` recognizes."""
    if path in fields:
        return fields[path]
    if "." not in path:
        return _ABSENT
    head, _, rest = path.partition(".")
    inner = fields.get(head)
    return find(inner, rest) if isinstance(inner, Mapping) else _ABSENT


def is_absent(value: object) -> bool:
    """Return whether a result of ``find`` means that the field is absent."""
    return value is _ABSENT


def _without(fields: dict[str, Any], path: str) -> dict[str, Any]:
    """Return an object without the field at a path, and without objects that this leaves empty."""
    head, dot, rest = path.partition(".")
    if head not in fields:
        return fields
    kept = {key: value for key, value in fields.items() if key != head}
    inner = fields[head]
    if not dot:
        return kept
    if not isinstance(inner, Mapping):
        return fields
    left = _without(dict(inner), rest)
    return {key: left if key == head else value for key, value in fields.items()} if left else kept


def _id(given: Any, place: str) -> str:  # noqa: C901, PLR0911  one line per type
    """Return an id for a value of another type than ``str``, the same in every run.

    Raises:
        TypeError: values of this type cannot be ids.
    """
    match given:
        case _ if given is None or given is _ABSENT:
            return place
        case bool():
            raise TypeError
        case str():  # a subclass, such as NumPy's
            return str(given)
        case numbers.Integral():
            return _digits(int(given))
        case numbers.Real():  # pandas writes integers of a column with gaps as floats
            number = float(given)
            if number != number:  # noqa: PLR0124  NaN: a gap
                return place
            if not number.is_integer():
                raise TypeError
            return _digits(int(number))
        case uuid.UUID():
            return str(given)
        case bytes():
            return given.decode("utf-8", "backslashreplace")
    if type(given).__name__ in ("NAType", "NaTType"):
        return place
    raise TypeError


def _digits(number: int) -> str:
    try:
        return str(number)
    except ValueError:  # more digits than Python prints
        raise TypeError from None


def to_record(id: str, text: str, metadata: Mapping[str, Any], place: str) -> Record | BadRecord:
    """Return a record, or a BadRecord that says why it is not valid."""
    try:
        return Record(id=id, text=text, metadata=metadata)
    except InvalidRequestError as error:
        return BadRecord(id=place, reason=UNFIT, detail=f"{place} {error}")


def bad(place: str, detail: str) -> BadRecord:
    """Return a BadRecord for an item without a readable text."""
    return BadRecord(id=place, reason=UNREADABLE, detail=f"{place} {detail}")


def rest_lost(place: str, why: str) -> BadRecord:
    """Return a BadRecord for everything from this position on, which could not be read."""
    return BadRecord(id=place, reason=UNREADABLE, detail=f"{place}: {why}", is_partial=True)


def undecodable(item: Record | BadRecord, place: str, encoding: str) -> BadRecord:
    """Return a BadRecord for a record whose bytes are not valid in the encoding."""
    way_out = "repair it" if encoding != "utf-8" else "name its encoding, as in --encoding latin-1"
    detail = f"{place} is not {encoding.upper()}: {way_out}"
    if isinstance(item, BadRecord):
        return BadRecord(id=place, reason=item.reason, detail=detail)
    # Its id is known, so that its row is not deleted as missing.
    return BadRecord(id=item.id, reason=Reason.INVALID_UNICODE, detail=detail, is_anonymous=False)


def notes_of(source: Source) -> list[str]:
    """Return the messages that a source has collected while it was read."""
    notes: list[str] = getattr(source, "notes", [])
    return notes


def ways_of(source: Source) -> list[Mapping[str, str]]:
    """Return the way of reading each part of a source: its path, format and fields, and the kinds of its files."""
    ways: list[Mapping[str, str]] = getattr(source, "ways", [])
    return ways or [{"source": type(source).__name__}]


def origins_of(source: Source) -> Mapping[str, str]:
    """Return prefixes of ids that are positions → paths of the files or folders that they stand for."""
    found: Mapping[str, str] = getattr(source, "origins", {})
    return found


def batches(items: Iterable[T], size: Callable[[T], int], *, most: int, most_size: int) -> Iterator[list[T]]:
    """Yield lists of at most ``most`` items and ``most_size`` total size; a larger item is alone in its list."""
    batch: list[T] = []
    total = 0
    for item in items:
        added = size(item)
        if batch and total + added > most_size:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += added
        if len(batch) == most:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


class Values:
    """Records from a program: ``Record``, ``(id, text)``, ``(id, text, metadata)``, or a mapping of fields."""

    name = "values"

    def __init__(self, values: Iterable[Any], fields: Fields | None = None) -> None:
        """Check the type of the values.

        Raises:
            InvalidRequestError: its items cannot be records, as those of a mapping or of an open file.
        """
        _check_values(values)
        self._values = values
        self._fields = fields or Fields()

    def __iter__(self) -> Iterator[Record | BadRecord]:
        for number, value in enumerate(self._values, start=1):
            yield self._record(value, f"values:{number}")

    @property
    def ways(self) -> list[Mapping[str, str]]:
        """The way in which the values are read."""
        return [self._fields.way()]

    def fraction(self) -> float | None:
        """Return None: the number of values is unknown."""
        return None

    def _record(self, value: Any, place: str) -> Record | BadRecord:  # noqa: PLR0911  one line per type
        match value:
            case Record() | BadRecord():
                return value
            case Mapping():
                return self._fields.record(value, place)
            case (str() as id, str() as text) | [str() as id, str() as text]:
                return to_record(id, text, {}, place)
            case (str() as id, str() as text, Mapping() as metadata):
                return to_record(id, text, metadata, place)
            case str() | PathLike():
                return bad(place, f"is a lone {_kind(value)}; pass texts as (id, text), and names of files one by one")
            case _ if hasattr(value, "columns"):
                return bad(place, f"is {_kind(value)}, which holds rows; pass it by itself, or its rows one by one")
        return bad(place, f"is {_kind(value)}; pass a Record, (id, text), (id, text, metadata) or a mapping")


def _check_values(values: Any) -> None:
    kind = type(values).__name__
    if hasattr(values, "collect_schema"):
        raise InvalidRequestError("source", f"{kind} is not computed yet; pass its collect()")
    if isinstance(values, Mapping):
        raise InvalidRequestError(
            "source", f"{kind} is one mapping; pass its items(), if they are (id, text), or a list of mappings"
        )
    if hasattr(values, "to_dict") and hasattr(values, "columns"):  # pandas before 2.2
        raise InvalidRequestError("source", f"{kind} has no Arrow stream; pass its to_dict('records')")
    if hasattr(values, "read"):
        raise InvalidRequestError("source", f"{kind} is an open file; pass its path")
    if hasattr(values, "to_frame"):
        raise InvalidRequestError("source", f"{kind} is one column; pass the frame, or its items()")
    if isinstance(values, bytes | bytearray | memoryview) or not _is_iterable(values):
        raise InvalidRequestError(
            "source", f"{kind} holds no records; pass the name of a file or folder, a frame, or records"
        )


def _is_iterable(values: Any) -> bool:
    return not isinstance(values, type) and hasattr(values, "__iter__")


def _kind(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"{type(value).__name__} of {', '.join(type(item).__name__ for item in value[:4])}"
    return type(value).__name__
