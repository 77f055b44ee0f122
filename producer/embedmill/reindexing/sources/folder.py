"""A folder of texts: a record a file, named by its path within the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from embedmill.errors import SourceError
from embedmill.regular_file import open_regular
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.source import UNREADABLE, to_record
from embedmill.reindexing.sources.files import mapped

#: Endings of files that are read.
SUFFIXES: Final = frozenset({".md", ".markdown", ".mdx", ".rst", ".txt"})

#: Bytes of one file.
MAX_FILE_BYTES: Final = 16 << 20


class Folder:
    """Text and Markdown files, in the order of their paths; hidden ones and links that lead out are passed over."""

    def __init__(self, path: str) -> None:
        """Look at the folder.

        Raises:
            SourceError: it cannot be read.
        """
        self.name = path
        self._root = Path(path)
        with mapped(path):
            is_folder = self._root.is_dir()
        if not is_folder:
            raise SourceError(path, "is no folder")
        self._paths: list[str] | None = None
        self._done = 0

    def __iter__(self) -> Iterator[Record | BadRecord]:
        """List the folder, then read file by file."""
        self._paths = sorted(self._walk())
        for self._done, path in enumerate(self._paths):  # noqa: B020
            yield self._record(path)
        self._done = len(self._paths)

    def fraction(self) -> float | None:
        """Count each file alike."""
        if self._paths is None:
            return None
        return self._done / len(self._paths) if self._paths else 1.0

    def _walk(self) -> Iterator[str]:
        """Give the files' paths within the folder, with forward slashes; folders behind links are not entered."""

        def fail(error: OSError) -> None:
            raise SourceError(self.name, f"{error.filename} cannot be read: {error.strerror}")

        root = self._root.resolve()
        for folder, folders, names in os.walk(root, onerror=fail):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(folder, name)
                if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                    continue
                if _leads_out(path, root):
                    continue
                yield path.relative_to(root).as_posix()

    def _record(self, path: str) -> Record | BadRecord:
        try:
            with open_regular(self._root / path) as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            return _bad(path, f"cannot be read: {error.strerror or type(error).__name__}")
        if len(data) > MAX_FILE_BYTES:
            return _bad(path, f"is longer than {MAX_FILE_BYTES >> 20} MiB")
        return to_record(path, data.decode("utf-8-sig", "surrogateescape"), {"path": path}, path)


def _leads_out(path: Path, root: Path) -> bool:
    try:
        return path.is_symlink() and not path.resolve().is_relative_to(root)
    except PermissionError:  # told when it is read
        return False


def _bad(path: str, why: str) -> BadRecord:
    # Its id is known: it is there, and must not be taken for deleted.
    return BadRecord(id=path, reason=UNREADABLE, detail=f"{path} {why}", is_anonymous=False)
