"""Forms that hold one file, read as they arrive: the file's bytes go on at once, so no body is in memory. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from embedmill_worker.gateway.refusals import Kind, RefusedError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

#: Parts of one form, and bytes of one that is not the file: no client of files sends more.
MAX_PARTS: Final = 32
MAX_FIELD_BYTES: Final = 4_096

#: Characters of a file's name that are kept.
MAX_NAME_CHARS: Final = 255

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(slots=True)
class _Part:
    disposition: bytes = b""
    name: str = ""
    is_file: bool = False
    value: bytearray = field(default_factory=bytearray)


class FileForm:
    """A form with the field ``file`` and small others."""

    def __init__(self, content_type: str, write: Callable[[bytes], object], *, max_bytes: int) -> None:
        """Begin a form.

        Args:
            content_type: of the request.
            write: takes the file's bytes, piece by piece.
            max_bytes: that the file may have.

        Raises:
            RefusedError: the request is not a form.
        """
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise RefusedError(Kind.INVALID, "The body must be multipart/form-data, with a boundary")
        self._write = write
        self._max_bytes = max_bytes
        self._n_parts = 0
        self._header = b""
        self._value = b""
        self._part = _Part()
        self._has_ended = False
        #: Name that the client gave the file; None: no file has come yet.
        self.filename: str | None = None
        self.n_bytes = 0
        #: The other fields, by name.
        self.fields: dict[str, str] = {}
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks, max_header_count=8, max_header_size=4_096)
        except FormParserError:
            raise _MALFORMED from None

    def feed(self, data: bytes) -> None:
        """Read the next piece of the body.

        Raises:
            RefusedError: it is not a form, or holds too much.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise _MALFORMED from None

    def finish(self) -> None:
        """Check that the form is whole.

        Raises:
            RefusedError: its end or its file is missing.
        """
        if not self._has_ended:
            raise _MALFORMED
        if self.filename is None:
            raise RefusedError(Kind.INVALID, "'file' is a required property", param="file")

    def _on_part_begin(self) -> None:
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise RefusedError(Kind.INVALID, f"The form may have at most {MAX_PARTS} parts")
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._part.disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._part.disposition)
        name = options.get(b"name")
        if name is None:
            raise _MALFORMED
        self._part.name = _text(name)
        self._part.is_file = self._part.name == "file"
        if self._part.is_file:
            if self.filename is not None:
                raise RefusedError(Kind.INVALID, "The form may have one 'file'", param="file")
            self.filename = _CONTROL.sub("\ufffd", _text(options.get(b"filename", b"")))[:MAX_NAME_CHARS] or "file"

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.is_file:
            self.n_bytes += end - start
            if self.n_bytes > self._max_bytes:
                raise RefusedError(Kind.TOO_LARGE, f"The file may have at most {self._max_bytes} bytes", param="file")
            self._write(data[start:end])
        elif len(self._part.value) + end - start > MAX_FIELD_BYTES:
            raise RefusedError(Kind.INVALID, f"A field may have at most {MAX_FIELD_BYTES} bytes")
        else:
            self._part.value += data[start:end]

    def _on_part_end(self) -> None:
        if not self._part.is_file:
            self.fields[self._part.name] = _text(bytes(self._part.value))

    def _on_end(self) -> None:
        self._has_ended = True


_MALFORMED: Final = RefusedError(Kind.INVALID, "The body is not a whole multipart/form-data form")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
