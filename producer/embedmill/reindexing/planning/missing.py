"""Which rows a run has met: a bit a row, so that ten million take 1.25 MB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

#: Bytes by which the bits grow.
_STEP: Final = 65_536


class SeenRows:
    """A set of numbers from 0."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> bool:
        """Put a number in. Return whether it was not there before."""
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
    """Return the ids of parts that their documents no longer have and, if ``all_missing``, of all that was not met.

    Args:
        rows: (number, id, parent or "") of every row, the parts of a document together.
        seen: numbers that were met.
        all_missing: a record that was not met is gone, and so are all parts of a document of which none was met.
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
