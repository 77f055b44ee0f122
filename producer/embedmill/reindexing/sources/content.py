"""Detection of a file's format by its first bytes, independent of its name."""

from __future__ import annotations

import codecs
import json
import re
from typing import Final

#: Bytes that detection looks at.
HEAD_BYTES: Final = 1 << 16

PARQUET: Final = b"PAR1"
ENCRYPTED_PARQUET: Final = b"PARE"

#: First bytes of compressed files, and their compression.
_COMPRESSED: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    *((bytes([0x50 + n]) + b"\x2a\x4d\x18", "zstd") for n in range(16)),  # skippable frames, which may come first
)

#: Hints for kinds of files.
_AS_TEXT: Final = "convert it to text, JSONL, CSV or Parquet"
_UNPACKED: Final = "unpack it, or convert its content to text"
_AS_PARQUET: Final = "convert it to Parquet, JSONL or CSV"

#: First bytes of files whose lines are not texts, and what these files are.
_BINARY: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PK\x03\x04", "a ZIP archive (or a document that is one: DOCX, XLSX, ODT, EPUB)"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"PK\x07\x08", "a ZIP archive in parts"),
    (b"%PDF-", "a PDF"),
    (b"{\\rtf", "RTF"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office document"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x1f\x9d", "compressed by compress (.Z)"),
    (b"LZIP", "compressed by lzip"),
    (b"\x89LZO\x00", "compressed by lzop"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed by Snappy"),
    (b"\x02\x21\x4c\x18", "compressed by an old lz4"),
    (b"!<arch>\n", "an ar archive (.deb, .a)"),
    (b"\xed\xab\xee\xdb", "an RPM package"),
    (b"Obj\x01", "Avro"),
    (b"\x89HDF\r\n", "HDF5"),
    (b"\x93NUMPY", "a NumPy array"),
    *((b"\x80" + bytes([version]), "a Python pickle") for version in range(2, 6)),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x7fELF", "an ELF binary"),
    (b"\xde\x12\x04\x95", "a catalogue of gettext (.mo)"),
    (b"\x95\x04\x12\xde", "a catalogue of gettext (.mo)"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    *((magic, f"compressed twice, the second time by {kind}") for magic, kind in _COMPRESSED),
)

#: The same for first bytes that a text may have, too; they count only if NUL bytes follow.
_BINARY_WITH_NULS: Final[tuple[tuple[bytes, str], ...]] = (
    (PARQUET, "Parquet, compressed as a whole"),
    (b"]\x00\x00", "compressed by LZMA (.lzma)"),
    (b"ARROW1", "an Arrow (Feather) file"),
    (b"\xff\xff\xff\xff", "a stream of Arrow"),
    (b"MZ", "a Windows program"),
    (b"FEA1", "a Feather file"),
    (b"ORC", "ORC"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a RIFF file (WAV, AVI, WebP)"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3"),
)

#: Kinds that hold rows.
_ROWS: Final = frozenset({"Avro", "an Arrow (Feather) file", "a stream of Arrow", "a Feather file", "ORC", "HDF5"})

#: Control characters that texts do not have; at most one in this number of bytes is accepted.
_CONTROLS: Final = bytes(set(range(32)) - set(b"\a\b\t\n\v\f\r\x1a\x1b\x1c\x1d\x1e\x1f")) + b"\x7f"
_CONTROL_SHARE: Final = 50

#: First bytes of SVG, and of e-mail: a line of mbox, or the header fields of a message.
_SVG: Final = re.compile(rb"<svg[\s>]")
_MAIL: Final = re.compile(
    rb"(From \S+ [^\r\n]*\d{4}\r?\n)?([A-Z][A-Za-z-]*:[ \t][^\r\n]*\r?\n([ \t][^\r\n]*\r?\n)*)+\r?\n"
)
_MAIL_FIELD: Final = re.compile(rb"^(Received|MIME-Version|Message-ID|Return-Path):", re.IGNORECASE | re.MULTILINE)

#: Byte order marks, the longer ones first, and their encodings.
_MARKS: Final = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)

#: Position of tar's magic bytes, and the marks of a bzip2 block and of the end of an empty bzip2 stream.
_TAR_AT: Final = 257
_BZIP2_BLOCKS: Final = (b"1AY&SY", b"\x17rE8P\x90")


def compression_of(head: bytes) -> str:
    """Return the compression of a file; "" if there is none."""
    found = next((codec for magic, codec in _COMPRESSED if head.startswith(magic)), "")
    if found == "bz2" and head[4:10] not in _BZIP2_BLOCKS:
        return ""
    return found


def encoding_of(head: bytes) -> str:
    """Return the encoding of a byte order mark; "" if there is none."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "")


def binary_of(head: bytes) -> str:
    """Return a message that says what a binary file is and what to do; "" if it may be text."""
    if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        return f"a tar archive; {_UNPACKED}"
    has_nuls = b"\x00" in head
    for magic, name in (*_BINARY, *(_BINARY_WITH_NULS if has_nuls else ())):
        if head.startswith(magic) and (magic != b"BZh" or compression_of(head)):
            return f"{name}; {_way_out(name)}"
    if head[:1_024].lstrip().startswith(b"%PDF-"):
        return f"a PDF; {_AS_TEXT}"
    if has_nuls:
        how = "or UTF-16 without a byte order mark, which --encoding utf-16-le reads"
        return f"binary (it holds NUL bytes), {how}; {_AS_TEXT}"
    if _is_noise(head):
        return f"binary, or text in an encoding that must be named (--encoding); {_AS_TEXT}"
    return ""


def _way_out(name: str) -> str:
    if "archive" in name or "compressed" in name:
        return _UNPACKED
    return _AS_PARQUET if name in _ROWS else _AS_TEXT


def _is_noise(head: bytes) -> bool:
    """Return whether bytes are neither UTF-8 nor text in an old encoding, which has few control characters."""
    if len(head.translate(None, _CONTROLS)) * _CONTROL_SHARE >= len(head) * (_CONTROL_SHARE - 1):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return True
    return False


def markup_of(head: bytes) -> str:
    """Return the kind of a markup file, whose lines are not texts; "" if it is not one."""
    start = head.lstrip()[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    if start.startswith(b"<?xml") or _SVG.match(start):
        return "XML"
    fields = _MAIL.match(head)
    return "e-mail" if fields and (fields[1] or _MAIL_FIELD.search(fields[0])) else ""


def json_of(head: bytes) -> str:
    """Return ``jsonl`` if the first line is a JSON object, ``json`` for other JSON with objects, else ""."""
    start = head.lstrip()
    line, end, more = start.partition(b"\n")
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
        is_alone = not (text[stop:].lstrip().startswith("{") and not more.strip())
        return "jsonl" if is_alone else "json"
    return "json" if (isinstance(value[0], dict) if value else stop == len(text)) else ""


def _begun(line: bytes, *, is_open: bool, is_cut: bool) -> str:
    """Return the form of a file whose first line is not complete JSON.

    Args:
        line: the first line, which begins with a bracket.
        is_open: whether it is the beginning of a JSON value.
        is_cut: whether it is longer than ``HEAD_BYTES``.
    """
    inner = line[1:].lstrip()
    if is_open and not is_cut:
        return "json"
    if line.startswith(b"["):
        return "json" if inner.startswith(b"{") else ""
    return "jsonl" if is_cut and inner.startswith(b'"') else ""
