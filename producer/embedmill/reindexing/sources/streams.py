"""Streams that decompress a file, convert it to UTF-8 and normalize old line ends."""

from __future__ import annotations

import bz2
import codecs
import io
import lzma
import zlib
from importlib import import_module
from typing import IO, Any, Final, Protocol, cast

from embedmill.errors import InvalidRequestError, SourceError
from embedmill.reindexing.sources.content import HEAD_BYTES, binary_of, compression_of, encoding_of

#: Bytes read, and most bytes decompressed, at a time.
STEP_BYTES: Final = 1 << 16

#: Encodings of host names, not of texts.
_NAMES_ALONE: Final = ("idna", "punycode")

#: Replaces bytes that are invalid in an encoding. It makes the line invalid UTF-8, so that its record is rejected.
_UNKNOWN: Final = "\udfff"


class _Decompressor(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """The decompressor of ``zlib`` with the interface of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = len(found) < max_length and not self._zlib.unconsumed_tail
        return found


_DECOMPRESSORS: Final[dict[str, Any]] = {"gzip": _Gzip, "bz2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}


class Pieces(io.RawIOBase):
    """A stream whose content comes in pieces."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Return True, which wrappers ask for."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the next piece."""
        if not self._left:
            self._left = memoryview(self.piece())
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def piece(self) -> bytes:
        """Return the next piece; empty at the end."""
        raise NotImplementedError


class _Members(Pieces):
    """The decompressed content of all members of a file; zeros may follow the last member."""

    def __init__(self, stream: IO[bytes], name: str, codec: str) -> None:
        super().__init__(stream, name)
        self._codec = codec
        self._member: _Decompressor | None = _DECOMPRESSORS[codec]()
        self._data = b""

    def piece(self) -> bytes:
        """Return the next decompressed bytes.

        Raises:
            SourceError: the data are damaged or cut off.
        """
        while True:
            if self._member is None and not self._next_member():
                return b""
            member = cast(_Decompressor, self._member)
            if not self._data and member.needs_input:
                self._data = self._stream.read(STEP_BYTES)
                if not self._data:
                    raise SourceError(self._name, f"the file is cut off: its {self._codec} data do not end")
            data, self._data = self._data, b""
            try:
                found = member.decompress(data, STEP_BYTES)
            except (zlib.error, lzma.LZMAError, OSError):
                raise SourceError(self._name, f"its {self._codec} data are damaged") from None
            if member.eof:
                self._data, self._member = member.unused_data, None
            if found:
                return found

    def _next_member(self) -> bool:
        """Begin the next member, if there is one."""
        while not (rest := self._data.lstrip(b"\0")):
            self._data = self._stream.read(STEP_BYTES)
            if not self._data:
                return False
        rest += self._stream.read(max(0, 16 - len(rest)))
        if compression_of(rest) != self._codec:
            raise SourceError(self._name, f"other data follow its {self._codec} data; remove them")
        self._data, self._member = rest, _DECOMPRESSORS[self._codec]()
        return True


class _Arrow(Pieces):
    """The content of a file that Arrow decompresses."""

    def __init__(self, stream: IO[bytes], name: str, codec: str) -> None:
        super().__init__(stream, name)
        arrow = import_module("pyarrow")
        self._codec = codec
        self._inner = arrow.CompressedInputStream(arrow.PythonFile(stream, "r"), codec)

    def piece(self) -> bytes:
        """Return the next decompressed bytes."""
        try:
            return cast(bytes, self._inner.read(STEP_BYTES))
        except OSError as error:
            cut = "is cut off" if "runcated" in str(error) else "is damaged, or other data follow its data"
            raise SourceError(self._name, f"the file {cut} ({self._codec})") from None


def _unknown(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement for bytes that are invalid in an encoding."""
    return _UNKNOWN, cast(UnicodeDecodeError, error).end


codecs.register_error("embedmill.unknown", _unknown)


class _Utf8(Pieces):
    """Text in another encoding, converted to UTF-8."""

    def __init__(self, stream: IO[bytes], name: str, encoding: str) -> None:
        super().__init__(stream, name)
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)("embedmill.unknown")
        self._is_over = False

    def piece(self) -> bytes:
        """Return the next bytes as UTF-8."""
        while not self._is_over:
            data = self._stream.read(STEP_BYTES)
            self._is_over = not data
            try:
                text = self._decoder.decode(data, final=self._is_over)
            except UnicodeError:  # the byte order mark that some encodings need is missing
                reason = f"is not {self._encoding.upper()}; name its encoding, as in --encoding utf-16-le"
                raise SourceError(self._name, reason) from None
            if text:
                return text.encode("utf-8", "surrogatepass")
        return b""


class _MacLines(Pieces):
    """Lines that end in a carriage return only, with line feeds instead."""

    def piece(self) -> bytes:
        """Return the next bytes."""
        return self._stream.read(STEP_BYTES).replace(b"\r", b"\n")


def check_encoding(encoding: str) -> str:
    """Return the normalized name of an encoding.

    Raises:
        InvalidRequestError: Python does not know it as an encoding of text.
    """
    try:
        "".encode(encoding)
        name = codecs.lookup(encoding).name
        codecs.getincrementaldecoder(name)("embedmill.unknown").decode(b"", final=True)
        if name in _NAMES_ALONE:
            raise LookupError(name)
        return name
    except (LookupError, UnicodeError, ValueError):
        raise InvalidRequestError(
            "encoding", f"{encoding!r} is not an encoding that Python knows, such as latin-1 or cp1252"
        ) from None


def buffered(stream: IO[bytes]) -> io.BufferedReader:
    """Return a stream with a buffer of ``HEAD_BYTES``, so that ``head_of`` can peek at its beginning."""
    return io.BufferedReader(cast(io.RawIOBase, stream), HEAD_BYTES)


def head_of(stream: io.BufferedReader) -> bytes:
    """Return the first bytes of a stream without consuming them."""
    return stream.peek(HEAD_BYTES)[:HEAD_BYTES]


def decompressed(stream: io.BufferedReader, name: str) -> io.BufferedReader:
    """Return the decompressed stream if the file is compressed, else the stream itself."""
    codec = compression_of(head_of(stream))
    if not codec:
        return stream
    return buffered(cast(IO[bytes], (_Members if codec in _DECOMPRESSORS else _Arrow)(stream, name, codec)))


def utf8(stream: io.BufferedReader, name: str, encoding: str) -> tuple[io.BufferedReader, str]:
    """Return (stream of UTF-8, its original encoding), which is that of a byte order mark or else ``encoding``.

    Raises:
        SourceError: it is binary.
    """
    head = head_of(stream)
    encoding = encoding_of(head) or encoding
    if head.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
        head = head_of(stream)
    if encoding not in ("utf-8", "utf-8-sig"):
        stream = buffered(cast(IO[bytes], _Utf8(stream, name, encoding)))
        head = head_of(stream)
    if found := binary_of(head):
        raise SourceError(name, f"is {found}")
    if b"\r" in head and b"\n" not in head and len(head) > head.index(b"\r") + 1:
        stream = buffered(cast(IO[bytes], _MacLines(stream, name)))
    return stream, encoding
