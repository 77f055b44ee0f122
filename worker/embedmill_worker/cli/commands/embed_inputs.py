"""Texts from files, a window at a time. What cannot be read is one text's problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from embedmill.reindexing import Source

FORMATS: Final = ("auto", "lines", "jsonl", "json", "csv", "parquet")

#: Most texts and characters in one window; a job holds up to 65,536 texts, but two windows are in memory at a time.
WINDOW_TEXTS: Final = 8_192
WINDOW_CHARS: Final = 16_000_000

#: Stands for a text that could not be read: a lone surrogate, which the client rejects without sending it.
UNREADABLE: Final = "\udfff"


@dataclass(slots=True, kw_only=True)
class Window:
    """Consecutive texts of the input."""

    #: Position of the first one in the whole input.
    start: int
    texts: list[str] = field(default_factory=list, repr=False)
    #: Position in ``texts`` → why it could not be read.
    problems: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line without a text."""

    detail: str


class Texts:
    """The texts of files, one after the other, read as ``reindex`` reads them."""

    def __init__(
        self, paths: Sequence[str], *, form: str, key: str, delimiter: str | None = None, encoding: str | None = None
    ) -> None:
        """Look at all files: a name that is wrong costs nothing.

        Args:
            paths: files, or ``-``.
            form: one of ``FORMATS``.
            key: the field that holds the text, in forms that have fields.
            delimiter: between the fields of CSV.
            encoding: of files without a byte order mark.

        Raises:
            SourceError: one of them cannot be read.
            InvalidRequestError: one of them can, but not so.
        """
        from embedmill.reindexing import Fields, open_source

        #: Why parts of the files could not be read.
        self.unread: list[str] = []
        fields = Fields(text=key, id="", metadata=())
        self._source: Source = open_source(paths, form=form, fields=fields, delimiter=delimiter, encoding=encoding)

    def __iter__(self) -> Iterator[str | Unreadable]:
        """Return the texts, and for what holds none the reason."""
        from embedmill.reindexing import Record

        for item in self._source:
            if isinstance(item, Record):
                yield item.text
            elif item.is_partial:
                self.unread.append(item.detail)
            else:
                yield Unreadable(item.detail)


def windows(texts: Iterable[str | Unreadable]) -> Iterator[Window]:
    """Cut the input into windows that fit into memory."""
    window = Window(start=0)
    chars = 0
    for text in texts:
        if len(window.texts) == WINDOW_TEXTS or chars > WINDOW_CHARS:
            yield window
            window = Window(start=window.start + len(window.texts))
            chars = 0
        if isinstance(text, Unreadable):
            window.problems[len(window.texts)] = text.detail
        window.texts.append(UNREADABLE if isinstance(text, Unreadable) else text)
        chars += len(window.texts[-1])
    if window.texts:
        yield window
