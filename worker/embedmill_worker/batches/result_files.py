"""The files that a batch writes: they hold the lines that are committed, and no others, whatever was killed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from embedmill_worker.batches.lines import ResultLine
from embedmill_worker.batches.objects import Progress

_BUFFER_BYTES: Final = 256 << 10


@dataclass(slots=True)
class _Open:
    file: IO[bytes]
    path: Path


class DamagedFileError(OSError):
    """A file that holds less than was committed."""


class ResultFiles:
    """The file of results and that of errors, which may be one."""

    def __init__(self, output: Path, errors: Path | None, progress: Progress) -> None:
        """Open the files and cut off what was written and not committed; ``errors`` None: all goes to ``output``.

        Raises:
            OSError: one of them cannot be written, or holds less than was committed.
        """
        self._output = _open(output, progress.output_bytes)
        self._errors = _open(errors, progress.error_bytes) if errors is not None else None

    def close(self) -> None:
        """Close the files."""
        for each in (self._output, self._errors):
            if each is not None:
                with suppress(OSError):  # what a full disk did not take is cut off when they are opened again
                    each.file.close()

    def append(self, lines: Iterable[ResultLine], progress: Progress) -> Progress:
        """Write lines behind those of ``progress`` and return the progress with them; they are on disk then.

        Raises:
            OSError: the disk is full, or worse; ``progress`` still holds, once the files are opened again.
        """
        written = [0, 0]
        completed = failed = tokens = 0
        for line in lines:
            to_errors = line.is_error and self._errors is not None
            target = self._errors if to_errors and self._errors is not None else self._output
            target.file.write(line.data)
            written[to_errors] += len(line.data)
            completed += not line.is_error
            failed += line.is_error
            tokens += line.tokens
        for each in (self._output, self._errors):
            if each is not None:
                each.file.flush()
                os.fsync(each.file.fileno())
        return replace(
            progress,
            output_bytes=progress.output_bytes + written[0],
            error_bytes=progress.error_bytes + written[1],
            completed=progress.completed + completed,
            failed=progress.failed + failed,
            tokens=progress.tokens + tokens,
        )


def _open(path: Path, n_bytes: int) -> _Open:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size < n_bytes:
            raise DamagedFileError(f"{path.name} holds less than was written")
        os.ftruncate(descriptor, n_bytes)
        os.lseek(descriptor, n_bytes, os.SEEK_SET)
        return _Open(os.fdopen(descriptor, "wb", _BUFFER_BYTES), path)
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise
