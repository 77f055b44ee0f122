"""The side file: a line for everything that has no vector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from embedmill.errors import InvalidRequestError, SinkError
from embedmill.reindexing.metadata import in_one_line
from embedmill.safe.regular_file import open_regular

#: The fields of every line, by which a list is known.
FIELDS = frozenset({"id", "reason", "detail"})

#: Bytes of a first line that is looked at: an id and a detail are shorter.
MAX_LINE_BYTES = 65_536


class Rejects:
    """``{"id": …, "reason": …, "detail": …}`` a line, of the latest run; no file if there are none."""

    def __init__(self, path: Path) -> None:
        """Name the file, which is left as it is until there is something to write.

        Raises:
            InvalidRequestError: it is another program's.
            SinkError: it cannot be read.
        """
        self.path = path
        self._stream: IO[str] | None = None
        self._has_written = False
        if path.name in ("", ".."):
            raise InvalidRequestError("rejects", "names no file; leave it out, or name one, as in rejects.jsonl")
        self._check()

    def add(self, id: str, reason: str, detail: str) -> None:
        """Write a line; the first one takes the place of an older list.

        Raises:
            SinkError: it cannot be written.
        """
        line = in_one_line(json.dumps({"id": id, "reason": reason, "detail": detail}, ensure_ascii=False))
        with self._mapped():
            if self._stream is None:
                self._check()  # since the run began, another program may have put something there
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self.path.open("w", encoding="utf-8", errors="backslashreplace")
                self._has_written = True
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        """Flush what has been written, so that readers see it.

        Raises:
            SinkError: it cannot be written.
        """
        if self._stream is not None:
            with self._mapped():
                self._stream.flush()

    def finish(self) -> None:
        """Remove an older list: this run has come to its end, and what it has rejected, if anything, is in a new one.

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
        """Close the file, if there is one.

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
            reason = f"{self.path} is no list of rejects, and would be replaced; name another file (--rejects)"
            raise InvalidRequestError("rejects", reason)


def is_reject_list(path: Path) -> bool:
    """Return whether a file is a list of rejects, as its first line shows.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with open_regular(path) as stream:
        line = stream.readline(MAX_LINE_BYTES)
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and first.keys() == FIELDS
