"""Checks that a file has the fields that the caller names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from embedmill.errors import InvalidRequestError
from embedmill.reindexing.metadata import shown
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import Fields, Reading, find, is_absent

#: Most names of fields in a message.
SHOWN_NAMES: Final = 10


def check_columns(
    name: str, columns: Sequence[str], reading: Reading, has: Callable[[str], bool], *, hint: str = ""
) -> list[str]:
    """Check the columns of a table, and return notes about them.

    Args:
        name: name of the table.
        columns: names of its columns.
        reading: the fields that the caller names.
        has: returns whether a field with this name or path exists.
        hint: added to the error if the text field is missing.

    Raises:
        InvalidRequestError: a named field is missing or ambiguous.
    """
    fields = reading.fields
    if not has(fields.text):
        raise missing(name, fields.text, columns, hint=hint)
    _check_unique(name, columns, fields)
    _check_named(name, columns, fields, lambda field: has(field) or field in reading.partition)
    return [] if has(fields.id) else _id_notes(name, columns, fields.id)


def check_first(name: str, first: Sequence[Mapping[str, Any]], reading: Reading, notes: list[str]) -> bool:
    """Check the first objects of a file, fill ``notes``, and return whether one of them has an id.

    Raises:
        InvalidRequestError: none has the text field or a named id field, or the text field holds objects or arrays.
    """
    if not first:
        return False
    columns = sorted({str(key) for value in first for key in value})
    fields = reading.fields
    if kind := _all_alike((value for value in (find(object_, fields.text) for object_ in first)), dict, list):
        reason = (
            f"{name} holds {kind} in {shown(fields.text)}; write one object per record, as to_json(orient='records') "
            "of pandas does, or name another field (--text-field)"
        )
        raise InvalidRequestError("text field", reason)

    def has(path: str) -> bool:
        return path in reading.partition or any(not is_absent(find(value, path)) for value in first)

    if not has(fields.text):
        raise missing(name, fields.text, columns)
    if _is_chosen(fields.id) and not has(fields.id):
        raise _not_there(name, "id field", "--id-field", fields.id, columns)
    notes[:] = [] if has(fields.id) else _id_notes(name, columns, fields.id)
    return has(fields.id)


def missing(name: str, text: str, columns: Sequence[str], *, hint: str = "") -> InvalidRequestError:
    """Return the error for a table without the text field."""
    others = f", only {listed(columns)}" if columns else " and no other one"
    reason = f"{name} has no field {shown(text)}{others}; name the text field (--text-field){hint}"
    return InvalidRequestError("text field", reason)


def listed(names: Sequence[str]) -> str:
    """Return names for a message."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(shown(name)[1:-1] or "''" for name in names[:SHOWN_NAMES]) + more


class Carried:
    """The named metadata fields that no record has had so far."""

    def __init__(self, name: str, reading: Reading, notes: list[str]) -> None:
        self._name = name
        self._notes = notes
        self.left = set(reading.fields.metadata or ())

    def seen(self, item: Record | BadRecord) -> Record | BadRecord:
        """Remove the fields of a record from those that are left, and return the record."""
        if self.left and isinstance(item, Record):
            self.left.difference_update(item.metadata)
        return item

    def close(self) -> None:
        """Add a note about fields that no record had."""
        if self.left:
            self._notes.append(f"no record of {self._name} has a field {listed(sorted(self.left))} (--metadata)")


def check_objects(name: str, first: Sequence[Any]) -> None:
    """Raise InvalidRequestError if none of the first values of a file is an object."""
    if first and not any(isinstance(value, Mapping) for value in first):
        kinds = {list: "arrays", str: "strings", type(None): "null"}
        kind = kinds.get(type(first[0]), "other values")
        reason = f'{name} holds {kind} instead of JSON objects, as in {{"id": …, "text": …}}'
        raise InvalidRequestError("source", reason)


def _all_alike(values: Iterable[Any], *kinds: type) -> str:
    """Return the type of the first value if all have one of these types; "" otherwise."""
    found = [type(value) for value in values if not is_absent(value)]
    return found[0].__name__ if found and all(kind in kinds for kind in found) else ""


def _check_unique(name: str, columns: Sequence[str], fields: Fields) -> None:
    twice = [column for column, count in Counter(columns).items() if count > 1 and fields.wants(column)]
    if twice:
        way_out = (
            "rename one of them"
            if {fields.text, fields.id} & set(twice)
            else "rename one of them, or leave it out (--metadata)"
        )
        raise InvalidRequestError("fields", f"{name} has several columns named {listed(twice)}; {way_out}")


def _check_named(name: str, columns: Sequence[str], fields: Fields, has: Callable[[str], bool]) -> None:
    if _is_chosen(fields.id) and not has(fields.id):
        raise _not_there(name, "id field", "--id-field", fields.id, columns)
    for field in fields.metadata or ():
        if not has(field):
            raise _not_there(name, "metadata", "--metadata", field, columns)


def _not_there(name: str, option: str, flag: str, field: str, columns: Sequence[str]) -> InvalidRequestError:
    return InvalidRequestError(option, f"{name} has no field {shown(field)} ({flag}), only {listed(columns)}")


def _id_notes(name: str, columns: Sequence[str], field: str) -> list[str]:
    """Return a note if the id field is missing but a field with a similar name exists."""
    alike = [column for column in columns if field and _is_alike(column, field)]
    way_out = f"to use its field {shown(alike[0])}, name it (--id-field)" if alike else ""
    return [f"{name} has no field {shown(field)}, so ids are positions in the file; {way_out}"] if alike else []


def _is_chosen(field: str) -> bool:
    """Return whether the caller named an id field."""
    return field not in ("", Fields().id)


def _is_alike(column: str, field: str) -> bool:
    return column.strip(" _").lower() == field.strip(" _").lower()
