"""How many tokens any piece of a text has, from tokenizing the text once."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from tokenizers import Tokenizer

#: Characters tokenized at a time: an encoding takes some 200 bytes a token while it lives, these arrays eight.
BLOCK_CHARS: Final = 65_536

#: Characters before the latest piece in which the next one is looked for first: parts may overlap.
BEHIND: Final = 4_096


class TokenCounts:
    """Where each token of a text begins and ends."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self._starts = array("i")
        self._ends = array("i")
        self._latest = 0
        for begin, block in _blocks(text):
            offsets = tokenizer.encode(block, add_special_tokens=False).offsets
            self._starts.extend([begin + start for start, _ in offsets])
            self._ends.extend([begin + end for _, end in offsets])

    def between(self, start: int, end: int) -> int:
        """Return the number of tokens that touch these characters.

        A token that ends just before them counts, too: it may be the space that belongs to the first word.
        """
        return max(0, bisect_left(self._starts, end) - bisect_left(self._ends, start or 1))

    def of_piece(self, piece: str) -> int:
        """Return the number of tokens of a piece of the text; the splitter does not say where it stands."""
        near = max(0, self._latest - BEHIND)
        start = self.text.find(piece, near, self._latest + BEHIND + 4 * len(piece))
        if start < 0:
            start = max(0, self.text.find(piece))
        else:
            self._latest = max(self._latest, start)
        return self.between(start, start + len(piece))

    def rewind(self, start: int) -> None:
        """Look for the next piece from here on."""
        self._latest = start

    def is_apart(self, start: int, end: int) -> bool:
        """Return whether a piece has white space, or an end of the text, on either side."""
        text = self.text
        return (start == 0 or text[start - 1].isspace()) and (end >= len(text) or text[end].isspace())


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Cut a text where no token is cut, as far as possible: after lines, else after words."""
    start = 0
    while start < len(text):
        end = start + BLOCK_CHARS
        if end < len(text):
            end = 1 + (max(text.rfind("\n", start, end), start) or start)
            if end == start + 1:
                end = 1 + text.rfind(" ", start, start + BLOCK_CHARS)
            if end <= start:
                end = start + BLOCK_CHARS
        yield start, text[start:end]
        start = end
