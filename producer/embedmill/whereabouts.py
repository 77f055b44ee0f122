"""The address of a running ``embedmill up``: a small file in the data folder, from which other processes read it."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from embedmill.errors import SettingsError
from embedmill.limits import MAX_WORKER_MODELS
from embedmill.safe.atomic_file import replacing
from embedmill.safe.regular_file import open_regular
from embedmill.urls import check_url

FILE_NAME: Final = "up.json"

#: Most bytes of the file, and most characters of each value in it.
MAX_BYTES: Final = 1 << 20
MAX_VALUE_CHARS: Final = 8_192

_MAX_PID: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """The address of a running ``embedmill up``, its models and its process."""

    redis_url: str
    namespace: str
    #: Model specs, as in ``EMBEDMILL_MODEL``, with absolute paths.
    models: tuple[str, ...]
    #: Process id of ``up``, and its start time in the kernel's ticks, as another process may get the same id later.
    pid: int
    started: int

    @classmethod
    def read(cls, data_dir: Path) -> Whereabouts | None:
        """Read the file of a data folder; None if it is missing or invalid, or its ``up`` does not run any more."""
        try:
            known = json.loads(_read_own(data_dir / FILE_NAME))
            found = cls(
                redis_url=check_url(_text(known["redis_url"])),
                namespace=_text(known["namespace"]),
                models=_models(known["models"]),
                pid=_pid(known["pid"]),
                started=_ticks(known["started"]),
            )
        except (OSError, ValueError, TypeError, KeyError, RecursionError, SettingsError):
            return None
        return found if _is_running(found.pid, found.started) else None

    def write(self, data_dir: Path) -> None:
        """Write the file so that only this user can read it.

        Raises:
            OSError: the file cannot be written.
        """
        with replacing(data_dir / FILE_NAME, mode=0o600) as stream:
            stream.write(json.dumps(asdict(self)).encode() + b"\n")

    def remove(self, data_dir: Path) -> None:
        """Remove the file, unless another ``up`` has written it since."""
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            if json.loads(_read_own(data_dir / FILE_NAME))["pid"] == self.pid:
                (data_dir / FILE_NAME).unlink()


def _read_own(path: Path) -> bytes:
    """Read a small file; raise PermissionError if anyone but this user may have written it."""
    with open_regular(path) as stream:
        about = os.fstat(stream.fileno())
        if about.st_uid != os.geteuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError
    return data


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_VALUE_CHARS or not value.isprintable():
        raise ValueError
    return value


def _models(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_WORKER_MODELS:
        raise ValueError
    return tuple(_text(model) for model in value)


def _pid(value: Any) -> int:
    if type(value) is not int or not 0 < value <= _MAX_PID:
        raise ValueError
    return value


def _ticks(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def started(pid: int) -> int:
    """Return a process's start time in ticks since boot; 0 if it has ended or the system is not Linux."""
    try:
        stated = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:  # not Linux, or gone
        return 0
    is_over = stated[:1] in (["Z"], ["X"])
    return 0 if is_over else int(stated[19])


def _is_running(pid: int, began: int) -> bool:
    """Return whether a process of this user has this id and this start time."""
    try:
        os.kill(pid, 0)
    except OSError:  # the process has ended, or belongs to another user and so is not the same
        return False
    return began == started(pid)
