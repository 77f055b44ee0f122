"""The choice of the source that reads a file, among the forms of ``formats``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Final, cast

from embedmill.errors import SourceError
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources import formats
from embedmill.reindexing.sources.base import STDIN, Form, Reading, Source
from embedmill.reindexing.sources.content import json_of, markup_of
from embedmill.reindexing.sources.files import FileSource, mapped
from embedmill.reindexing.sources.streams import decompressed, head_of, utf8
from embedmill.reindexing.sources.suffixes import DOCUMENTS, MARKUP, suffix_of
from embedmill.safe.regular_file import open_regular

#: The forms by name.
FORMS: Final[dict[str, Form]] = {
    name: form
    for _, module, _ in iter_modules(formats.__path__)
    for name, form in getattr(import_module(f"{formats.__name__}.{module}"), "FORMS", {}).items()
}

#: The form of files with an ending: the first one that names it.
OF_ENDING: Final = {ending: name for name, form in reversed(FORMS.items()) for ending in form.endings}


class StandardInput(FileSource):
    """Standard input, which is read as it begins."""

    def records(self, stream: io.BufferedReader) -> Iterator[Record | BadRecord]:
        """Choose a form and read on."""
        form = _form_of_text("", head_of(stream), self.name, self.reading)
        reader = cast(FileSource, FORMS[form].reader(STDIN, self.name, self.reading))
        reader.encoding = self.encoding
        yield from reader.records(stream)
        self.notes[:] = reader.notes


def open_file(path: str, name: str, form: str, reading: Reading) -> Source:
    """Return what reads a file.

    Args:
        path: where it is, or ``-``.
        name: begins the ids of records that name none.
        form: ``auto`` chooses by a file's ending and by how it begins.
        reading: how it is read.

    Raises:
        SourceError: it cannot be read.
        InvalidRequestError: it can, but not so.
        ModuleNotFoundError: the library that it needs is not installed; it comes with ``embedmill[reindex]``.
    """
    if form == "auto":
        if path == STDIN:
            return StandardInput(path, name, reading)
        form = form_of(path, name, reading)
    return FORMS[form].reader(path, name, reading)


def form_of(path: str, name: str, reading: Reading) -> str:
    """Return the form of a file by its ending and by how it begins.

    Raises:
        SourceError: it cannot be read, or is nothing that can be.
    """
    suffix = suffix_of(path)
    with mapped(name), open_regular(Path(path)) as raw:
        head = head_of(raw)
        if found := next((name for name, form in FORMS.items() if form.is_form_of(head, suffix)), ""):
            return found
        stream, _ = utf8(decompressed(raw, name), name, reading.encoding)
        return _form_of_text(suffix, head_of(stream), name, reading)


def _form_of_text(suffix: str, head: bytes, name: str, reading: Reading) -> str:
    form = OF_ENDING.get(suffix, "")
    if form == "csv" and reading.delimiter:
        return form
    found = json_of(head)
    if form and FORMS[form].begins and not found:
        what = f"no {form.capitalize()}" if head else f"empty, and so no {form.capitalize()}"
        raise SourceError(name, f"is {what}; give it the ending of what it is")
    if found or form:
        return found or form
    if markup := MARKUP.get(suffix) or (suffix not in DOCUMENTS and markup_of(head)):
        raise SourceError(name, f"is {markup}; make text of it, or read it line by line with --format lines")
    return "csv" if reading.delimiter else "lines"
