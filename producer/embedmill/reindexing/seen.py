"""Which rows a run has met: a bit a row, so that ten million take 1.25 MB."""

from __future__ import annotations

from typing import Final

#: Bytes by which the bits grow.
_STEP: Final = 65_536


class Seen:
    """A set of numbers from 0."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> bool:
        """Put a number in. Gives whether it was not there before."""
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
