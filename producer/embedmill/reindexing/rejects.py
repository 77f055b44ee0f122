"""The list of rejects: a file with one line for every record without a vector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from embedmill.errors import InvalidRequestError, SinkError
from embedmill.reindexing.metadata import in_one_line
from embedmill.safe.regular_file import open_regular

#: Fields of every line; a file whose first line has just these is a list of rejects.
FIELDS = frozenset({"id", "reason", "detail"})

#: Most bytes of the first line that are read; id and detail are shorter.
MAX_LINE_BYTES = 65_536


class Rejects:
    """The list of rejects of one run: ``{"id": …, "reason": …, "detail": …}`` per line, and no file without rejects."""

    def __init__(self, path: Path) -> None:
        """Check the file, which is not changed before the first reject is added.

        Raises:
            InvalidRequestError: it exists and is not a list of rejects.
            SinkError: it cannot be read.
        """
        self.path = path
        self._stream: IO[str] | None = None
        self._has_written = False
        if path.name in ("", ".."):
            raise InvalidRequestError(
                "rejects", "is not the name of a file; leave it out, or name one, as in rejects.jsonl"
            )
        self._check()

    def add(self, id: str, reason: str, detail: str) -> None:
        """Write a line. The first one replaces an older list.

        Raises:
            SinkError: it cannot be written.
        """
        line = in_one_line(json.dumps({"id": id, "reason": reason, "detail": detail}, ensure_ascii=False))
        with self._mapped():
            if self._stream is None:
                self._check()  # another program may have written the file since the run began
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self.path.open("w", encoding="utf-8", errors="backslashreplace")
                self._has_written = True
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        """Flush written lines, so that other programs see them.

        Raises:
            SinkError: it cannot be written.
        """
        if self._stream is not None:
            with self._mapped():
                self._stream.flush()

    def finish(self) -> None:
        """Remove an older list if this run, which is complete, has rejected nothing.

        Raises:
            SinkError: it cannot be removed.
        """
        if self._has_written:
            return
        try:
            if is_reject_list(self.path):
                self.path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise SinkError(str(self.path), f"cannot be removed: {error.strerror}") from None

    def close(self) -> None:
        """Close the file, if it is open.

        Raises:
            SinkError: the rest of it cannot be written.
        """
        if self._stream is not None:
            stream, self._stream = self._stream, None
            with self._mapped():
                stream.close()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SinkError(str(self.path), f"cannot be written: {reason}; name another file (--rejects)") from None

    def _check(self) -> None:
        with self._mapped():
            try:
                is_ours = is_reject_list(self.path) or not self.path.stat().st_size
            except FileNotFoundError:
                return
        if not is_ours:
            reason = f"{self.path} is not a list of rejects and would be replaced; name another file (--rejects)"
            raise InvalidRequestError("rejects", reason)


def is_reject_list(path: Path) -> bool:
    """Return whether a file is a list of rejects, by its first line.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open_regular(path) as stream:
        line = stream.readline(MAX_LINE_BYTES)
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and first.keys() == FIELDS
