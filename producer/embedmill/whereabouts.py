"""Where ``embedmill up`` listens: a small file in the data folder, so that other processes of its user find it."""

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

#: Bytes of the file, and characters of each value in it.
MAX_BYTES: Final = 1 << 20
MAX_VALUE_CHARS: Final = 8_192

_MAX_PID: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """What a running ``embedmill up`` says of itself."""

    redis_url: str
    namespace: str
    #: As in ``EMBEDMILL_MODEL``; paths are absolute.
    models: tuple[str, ...]
    #: Process id of ``up``, and when that process began, in the kernel's ticks: an id is used again, after a boot, say.
    pid: int
    started: int

    @classmethod
    def read(cls, data_dir: Path) -> Whereabouts | None:
        """Return what the ``up`` that runs in a data folder says; None if none does, or if anything in it is odd."""
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
        """Write the file for this user alone.

        Raises:
            OSError: it cannot be written.
        """
        with replacing(data_dir / FILE_NAME, mode=0o600) as stream:
            stream.write(json.dumps(asdict(self)).encode() + b"\n")

    def remove(self, data_dir: Path) -> None:
        """Remove the file, unless another ``up`` has written it since."""
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            if json.loads(_read_own(data_dir / FILE_NAME))["pid"] == self.pid:
                (data_dir / FILE_NAME).unlink()


def _read_own(path: Path) -> bytes:
    """Read a small file that this user alone can have written."""
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
    """Return when a process began, in ticks since the boot; 0 where the system does not tell, or it has ended."""
    try:
        stated = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:  # not Linux, or gone
        return 0
    is_over = stated[:1] in (["Z"], ["X"])
    return 0 if is_over else int(stated[19])


def _is_running(pid: int, began: int) -> bool:
    """Return whether this user has the process of this id that began then."""
    try:
        os.kill(pid, 0)
    except OSError:  # gone; or somebody else's, and so another one
        return False
    return began == started(pid)
