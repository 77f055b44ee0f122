"""Where records come from."""

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

#: Stands for standard input.
STDIN: Final = "-"

#: Reason of something that holds no text.
UNREADABLE: Final = "unreadable"

#: Reason of a record whose id or metadata cannot be kept.
UNFIT: Final = "unfit"

#: Where a field is not; None may be a value.
_ABSENT: Final = object()


class Source(Protocol):
    """Something that can be read from its beginning, in the same order each time.

    It may have ``notes``, a list of sentences for people that is filled while it is read: what was passed over; and, so
    that another source is not taken for it, ``ways`` and ``origins``: see ``ways_of`` and ``origins_of``.
    """

    #: Shown to people.
    name: str

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """Return the records, holding a bounded number in memory.

        Raises:
            SourceError: it cannot be read on.
        """
        ...

    def fraction(self) -> float | None:
        """Return how much of it has been read, 0 to 1; None: nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Which field of an object is what; a name with dots is a path, as in ``doc.body``, unless a field bears it."""

    text: str = "text"
    #: A record without it has its place for an id, as in ``corpus.jsonl:17``; "": all have.
    id: str = "id"
    #: Fields that are carried along; None: all others.
    metadata: tuple[str, ...] | None = None

    def way(self, source: str = "values of a program") -> Mapping[str, str]:
        """Return how a source is read by these fields; see ``ways.py``."""
        return {"source": source, "text field": self.text, "id field": self.id}

    def record(self, fields: Mapping[str, Any], place: str) -> Record | BadRecord:
        """Return the record that an object is; place: its id, if it names none."""
        text = fields[self.text] if self.text in fields else find(fields, self.text)
        if text is _ABSENT:
            return bad(place, f"has no field {shown(self.text)}; name the right one as the text field (--text-field)")
        given = fields[self.id] if self.id in fields else find(fields, self.id)
        try:
            id = given if type(given) is str else _id(given, place)
        except TypeError:
            return bad(place, f"holds {type(given).__name__}, neither str nor int, in {shown(self.id)}")
        if isinstance(text, bytes):  # as some programs write text into Parquet
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
        """Return whether a column, or something below it, is needed."""
        if self.metadata is None:
            return True
        return any(name == column or name.startswith(f"{column}.") for name in (self.text, self.id, *self.metadata))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How files are read."""

    fields: Fields = field(default_factory=Fields)
    #: Between the fields of a row of CSV; "": a comma, or in ``.tsv`` a tab.
    delimiter: str = ""
    #: Encoding of files without a byte order mark.
    encoding: str = "utf-8"
    #: Carried along with every record: what the folders of a partitioned data set say.
    partition: Mapping[str, Any] = field(default_factory=dict)

    def way(self, path: str, form: str, kinds: Iterable[str] | None = ()) -> Mapping[str, str]:
        """Return how a file or folder is read, None: of nobody knows which kinds; see ``ways.py``."""
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

    #: Return what reads a file, whose path it is given, the name that the ids made of places begin with, and how it is
    #: read. Raises SourceError if the file cannot be read, InvalidRequestError if it cannot be read so.
    reader: Callable[[str, str, Reading], Source]
    _: KW_ONLY
    #: Of its files' names, in small letters; none: it is read so if it is asked for, or by its beginning.
    endings: tuple[str, ...] = ()
    #: How its files begin if they are no text: others with these endings are read as the text that they are.
    begins: tuple[bytes, ...] = ()
    #: Whether files without these endings are read so, too, if they begin so and hold NUL bytes.
    is_known_by_its_beginning: bool = False

    def is_form_of(self, head: bytes, suffix: str) -> bool:
        """Return whether a file that begins so, and is no text, is of this form."""
        is_named = suffix in self.endings or (self.is_known_by_its_beginning and b"\x00" in head)
        return is_named and head.startswith(self.begins)


def find(fields: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path, or what ``is_absent`` knows."""
    if path in fields:
        return fields[path]
    if "." not in path:
        return _ABSENT
    head, _, rest = path.partition(".")
    inner = fields.get(head)
    return find(inner, rest) if isinstance(inner, Mapping) else _ABSENT


def is_absent(value: object) -> bool:
    """Return whether ``find`` has found nothing."""
    return value is _ABSENT


def _without(fields: dict[str, Any], path: str) -> dict[str, Any]:
    """Return an object without what lies at a path, and without what is empty then."""
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


def _id(given: Any, place: str) -> str:  # noqa: C901, PLR0911  a line a kind
    """Return an id of a value that is no ``str``, the same in every run.

    Raises:
        TypeError: it is of no kind that names something.
    """
    match given:
        case _ if given is None or given is _ABSENT:
            return place
        case bool():
            raise TypeError
        case str():  # of a subclass, as numpy's
            return str(given)
        case numbers.Integral():
            return _digits(int(given))
        case numbers.Real():  # integers of a column that has gaps, as pandas writes them
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
    except ValueError:  # more digits than Python writes
        raise TypeError from None


def to_record(id: str, text: str, metadata: Mapping[str, Any], place: str) -> Record | BadRecord:
    """Return a record, or why there can be none."""
    try:
        return Record(id=id, text=text, metadata=metadata)
    except InvalidRequestError as error:
        return BadRecord(id=place, reason=UNFIT, detail=f"{place} {error}")


def bad(place: str, detail: str) -> BadRecord:
    """Return what holds no text."""
    return BadRecord(id=place, reason=UNREADABLE, detail=f"{place} {detail}")


def rest_lost(place: str, why: str) -> BadRecord:
    """Return what stands for all that could not be read from this place on."""
    return BadRecord(id=place, reason=UNREADABLE, detail=f"{place}: {why}", is_partial=True)


def undecodable(item: Record | BadRecord, place: str, encoding: str) -> BadRecord:
    """Return what stands for a record that holds bytes which are no text."""
    way_out = "mend it" if encoding != "utf-8" else "name its encoding, as in --encoding latin-1"
    detail = f"{place} is not {encoding.upper()}: {way_out}"
    if isinstance(item, BadRecord):
        return BadRecord(id=place, reason=item.reason, detail=detail)
    # Its id is known: it is there, and must not be taken for deleted.
    return BadRecord(id=item.id, reason=Reason.INVALID_UNICODE, detail=detail, is_anonymous=False)


def notes_of(source: Source) -> list[str]:
    """Return what a source has to say to people after it was read."""
    notes: list[str] = getattr(source, "notes", [])
    return notes


def ways_of(source: Source) -> list[Mapping[str, str]]:
    """Return how each part of a source is read: where it is, its format, its fields, the kinds of its files."""
    ways: list[Mapping[str, str]] = getattr(source, "ways", [])
    return ways or [{"source": type(source).__name__}]


def origins_of(source: Source) -> Mapping[str, str]:
    """Return what ids that are made of places begin with, and the path of the file or folder that it stands for."""
    found: Mapping[str, str] = getattr(source, "origins", {})
    return found


def batches(items: Iterable[T], size: Callable[[T], int], *, most: int, most_size: int) -> Iterator[list[T]]:
    """Cut items into lists of at most so many items and so much size; what is larger is alone in one."""
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
        """Check that these can be records.

        Raises:
            InvalidRequestError: it is something whose items are no records: a frame, a mapping, an open file.
        """
        _check_values(values)
        self._values = values
        self._fields = fields or Fields()

    def __iter__(self) -> Iterator[Record | BadRecord]:
        for number, value in enumerate(self._values, start=1):
            yield self._record(value, f"values:{number}")

    @property
    def ways(self) -> list[Mapping[str, str]]:
        """How they are read."""
        return [self._fields.way()]

    def fraction(self) -> float | None:
        """Nobody knows how many there will be."""
        return None

    def _record(self, value: Any, place: str) -> Record | BadRecord:  # noqa: PLR0911  a line a kind
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
                return bad(place, f"is {_kind(value)} alone; give texts as (id, text), and files' names one by one")
            case _ if hasattr(value, "columns"):
                return bad(place, f"is {_kind(value)}, which holds rows; give it by itself, or the rows one by one")
        return bad(place, f"is {_kind(value)}; a Record, (id, text), (id, text, metadata) or a mapping is wanted")


def _check_values(values: Any) -> None:
    kind = type(values).__name__
    if hasattr(values, "collect_schema"):
        raise InvalidRequestError("source", f"{kind} is not computed yet; give its collect()")
    if isinstance(values, Mapping):
        raise InvalidRequestError(
            "source", f"{kind} is one mapping; give its items(), if they are (id, text), or a list of mappings"
        )
    if hasattr(values, "to_dict") and hasattr(values, "columns"):  # pandas before 2.2
        raise InvalidRequestError("source", f"{kind} has no Arrow stream; give to_dict('records')")
    if hasattr(values, "read"):
        raise InvalidRequestError("source", f"{kind} is an open file; give its path")
    if hasattr(values, "to_frame"):
        raise InvalidRequestError("source", f"{kind} is one column; give the frame, or its items()")
    if isinstance(values, bytes | bytearray | memoryview) or not _is_iterable(values):
        raise InvalidRequestError(
            "source", f"{kind} holds no records; give a name of a file or folder, a frame, or records"
        )


def _is_iterable(values: Any) -> bool:
    return not isinstance(values, type) and hasattr(values, "__iter__")


def _kind(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"{type(value).__name__} of {', '.join(type(item).__name__ for item in value[:4])}"
    return type(value).__name__
