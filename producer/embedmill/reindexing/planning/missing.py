"""Rows that a run has seen and rows that have vanished. One bit per row: ten million take 1.25 MB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

#: Bytes by which the bit set grows.
_STEP: Final = 65_536


class SeenRows:
    """A set of row numbers, which start at 0."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> bool:
        """Add a number. Return whether it is new."""
        byte, mask = number >> 3, 1 << (number & 7)
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte - len(self._bits) + _STEP))
        if self._bits[byte] & mask:
            return False
        self._bits[byte] |= mask
        return True

    def __contains__(self, number: int) -> bool:
        byte = number >> 3
        return byte < len(self._bits) and bool(self._bits[byte] & (1 << (number & 7)))


def vanished(rows: Iterable[tuple[int, str, str]], seen: SeenRows, *, all_missing: bool) -> Iterator[str]:
    """Return the ids of vanished rows: the unseen parts of documents that were seen, or all unseen rows.

    Args:
        rows: (number, id, parent or "") of every row; the parts of a document follow each other.
        seen: numbers of the rows that the run has seen.
        all_missing: return also unseen records, and all parts of a document if none of them was seen.
    """
    document, is_present, unseen = "", False, list[str]()
    for number, id, parent in rows:
        if not parent:
            if all_missing and number not in seen:
                yield id
            continue
        if parent != document:
            yield from unseen if is_present or all_missing else ()
            document, is_present, unseen = parent, False, []
        if number in seen:
            is_present = True
        else:
            unseen.append(id)
    yield from unseen if is_present or all_missing else ()
