"""Files that the system refuses: which one, why, and what to do about it."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock

from embedmill.errors import ModelLoadError

#: What a system answers that refuses for want of rights.
_NO_RIGHT: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

#: What else can be done about a file of the data folder.
OWN_FOLDER: Final = "set EMBEDMILL_DATA_DIR to a folder of your own"


class StorageError(OSError):
    """A file of the data folder cannot be written. Arguments: errno, the system's reason, the file."""

    def __str__(self) -> str:
        first = "" if _is_refusal(self) else "mend that, or "
        folder = "a folder that you may write" if _is_refusal(self) else "another folder"
        return f"{self.filename} cannot be written: {self.strerror}; {first}set EMBEDMILL_DATA_DIR to {folder}"


def _is_refusal(error: BaseException) -> bool:
    """Tell whether the system refused something for want of rights."""
    return isinstance(error, OSError) and error.errno in _NO_RIGHT


@contextmanager
def told(model: str, *, instead: str = "name another folder") -> Iterator[None]:
    """Turn what the system refuses over a model's files into ModelLoadError, which names the file and the way out.

    Args:
        model: its name, for errors.
        instead: what can be done if the file is of no use.
    """
    try:
        yield
    except OSError as error:
        raise ModelLoadError(model, _reason(error, instead)) from error


def _reason(error: OSError, instead: str) -> str:
    if isinstance(error, StorageError) or error.filename is None:
        return str(error)
    cure = f"let user id {os.geteuid()} read it and enter its folders" if _is_refusal(error) else "restore it"
    return f"{error.filename} cannot be read: {error.strerror}; {cure}, or {instead}"


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what the system refuses while something is written to the data folder into StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(error.errno or 0, error.strerror or str(error), str(error.filename or path)) from error


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder in the data folder, which is made if need be: one process at a time.

    Raises:
        StorageError: it cannot be made, or its lock cannot be written.
    """
    lock = FileLock(folder / ".lock")
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def exists(path: Path) -> bool:
    """Tell whether there is anything.

    Raises:
        OSError: this process may not look. pathlib answers no to that, from Python 3.14 on.
    """
    return _mode(str(path)) != 0


def is_file(path: Path) -> bool:
    """Tell whether there is a file.

    Raises:
        OSError: this process may not look.
    """
    return stat.S_ISREG(_mode(str(path)))


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder.

    Raises:
        OSError: this process may not look, or enter it.
    """
    return stat.S_ISDIR(_mode(str(path))) and stat.S_ISDIR(_mode(f"{path}/."))


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode  # noqa: PTH116  pathlib takes the dot away
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return 0
