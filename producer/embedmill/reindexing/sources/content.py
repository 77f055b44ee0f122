"""What a file is by its first bytes, whatever it is called."""

from __future__ import annotations

import json
from typing import Final

#: Bytes that are looked at.
HEAD_BYTES: Final = 1 << 16

PARQUET: Final = b"PAR1"

#: How a compressed file begins, and what it is compressed by.
_COMPRESSED: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
)

#: How files begin whose lines are no texts.
_BINARY: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PK\x03\x04", "a ZIP archive (or a document that is one: DOCX, XLSX, ODT, EPUB)"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"%PDF-", "a PDF"),
    (b"{\\rtf", "RTF"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office document"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x1f\x9d", "compressed by compress (.Z)"),
    (b"!<arch>\n", "an ar archive (.deb, .a)"),
    (b"\xed\xab\xee\xdb", "an RPM package"),
    (b"Obj\x01", "Avro"),
    (b"\x89HDF\r\n", "HDF5"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x7fELF", "an ELF binary"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    *((magic, f"compressed twice, the second time by {kind}") for magic, kind in _COMPRESSED),
)

#: The same for beginnings that a text may have, too: only with NUL bytes behind them.
_BINARY_WITH_NULS: Final[tuple[tuple[bytes, str], ...]] = (
    (PARQUET, "Parquet"),
    (b"ARROW1", "an Arrow (Feather) file"),
    (b"FEA1", "a Feather file"),
    (b"ORC", "ORC"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a RIFF file (WAV, AVI, WebP)"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3"),
)

#: Byte order marks, the longer ones first, and what they mean.
_MARKS: Final = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)

#: Where tar writes its name, and a bzip2 stream the first of its blocks (or, if it is empty, its end).
_TAR_AT: Final = 257
_BZIP2_BLOCKS: Final = (b"1AY&SY", b"\x17rE8P\x90")


def compression_of(head: bytes) -> str:
    """Return what a file is compressed by; "": by nothing."""
    found = next((codec for magic, codec in _COMPRESSED if head.startswith(magic)), "")
    if found == "bz2" and head[4:10] not in _BZIP2_BLOCKS:
        return ""
    return found


def encoding_of(head: bytes) -> str:
    """Return the encoding that a byte order mark names; "": there is none."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "")


def binary_of(head: bytes) -> str:
    """Return what a file is if it is no text, for people; "": it may be some."""
    if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        return "a tar archive"
    has_nuls = b"\x00" in head
    for magic, name in (*_BINARY, *(_BINARY_WITH_NULS if has_nuls else ())):
        if head.startswith(magic) and (magic != b"BZh" or compression_of(head)):
            return name
    if has_nuls:
        return "binary (it holds NUL bytes), or UTF-16 without a byte order mark, which --encoding utf-16-le reads"
    return ""


def is_parquet(head: bytes) -> bool:
    """Return whether a file begins as Parquet does."""
    return head.startswith(PARQUET) and b"\x00" in head


def markup_of(head: bytes) -> str:
    """Return the markup that a file begins with and whose lines are no texts; "": none."""
    start = head.lstrip()[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    return "XML" if start.startswith(b"<?xml") else ""


def json_of(head: bytes) -> str:
    """Return ``jsonl`` if the first line is a JSON object, ``json`` if JSON begins that spans lines, else ""."""
    start = head.lstrip()
    line, end, _ = start.partition(b"\n")
    line = line.strip()
    if not line.startswith((b"{", b"[")):
        return ""
    try:
        text = line.decode("utf-8", "replace")
        value, stop = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        is_open = error.pos >= len(error.doc) and "Unterminated" not in error.msg
        return _begun(line, is_open=is_open, is_cut=not end)
    except (ValueError, RecursionError):
        return ""
    if isinstance(value, dict):
        return "jsonl"
    return "json" if stop == len(text) and (not value or isinstance(value[0], dict)) else ""


def _begun(line: bytes, *, is_open: bool, is_cut: bool) -> str:
    """Return the form of a file whose first line is not whole.

    Args:
        line: it begins with a bracket.
        is_open: it is JSON as far as it goes.
        is_cut: it is longer than what is looked at.
    """
    inner = line[1:].lstrip()
    if is_open and not is_cut:
        return "json"
    if line.startswith(b"["):
        return "json" if inner.startswith(b"{") else ""
    return "jsonl" if is_cut and inner.startswith(b'"') else ""
