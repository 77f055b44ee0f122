"""What the ending of a file's name says."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

#: Endings of compressed files; what they are compressed by is seen by their bytes.
_COMPRESSED: Final = frozenset({".gz", ".bgz", ".bz2", ".xz", ".zst", ".zstd", ".lz4"})

#: Files that are one text each within a folder.
DOCUMENTS: Final = frozenset({".md", ".markdown", ".mdx", ".rst", ".txt"})

#: Files whose lines are not texts.
MARKUP: Final = {
    ".html": "HTML",
    ".htm": "HTML",
    ".xhtml": "HTML",
    ".xml": "XML",
    ".svg": "XML",
    ".eml": "e-mail",
    ".mbox": "e-mail",
}


def suffix_of(path: str) -> str:
    """Return a name's ending in small letters, that of a compressed file without what compresses it."""
    name = PurePath(path)
    suffix = name.suffix.lower()
    return name.with_suffix("").suffix.lower() if suffix in _COMPRESSED else suffix
