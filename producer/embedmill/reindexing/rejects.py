"""The side file: a line for everything that has no vector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

from embedmill.errors import SinkError
from embedmill.regular_file import check_regular


class Rejects:
    """``{"id": …, "reason": …, "detail": …}`` a line, of the latest run; no file if there are none."""

    def __init__(self, path: Path) -> None:
        """Begin anew.

        Raises:
            SinkError: there can be no such file.
        """
        self.path = path
        self._stream: IO[str] | None = None
        try:
            if path.exists():
                check_regular(path)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise SinkError(str(path), f"cannot be written: {error.strerror}") from None

    def add(self, id: str, reason: str, detail: str) -> None:
        """Write a line.

        Raises:
            SinkError: it cannot be written.
        """
        try:
            if self._stream is None:
                self._stream = self.path.open("w", encoding="utf-8", errors="backslashreplace")
            self._stream.write(json.dumps({"id": id, "reason": reason, "detail": detail}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise SinkError(str(self.path), f"cannot be written: {error.strerror}") from None

    def flush(self) -> None:
        """Let readers see what has been written."""
        if self._stream is not None:
            self._stream.flush()

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
