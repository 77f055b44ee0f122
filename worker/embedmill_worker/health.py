"""A worker's health as a small file: written by its main process at each beat, read by probes.

This module imports almost nothing and calls no server: a probe takes a few milliseconds, and a Redis outage does not
make a supervisor end the worker.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

#: Variable that names the file; if it is not set, no file is written.
HEALTH_FILE_ENV: Final = "EMBEDMILL_HEALTH_FILE"

#: Seconds without a beat after which the main process no longer counts as live. Celery notices a frozen Redis only
#: after several calls of 5 s each.
LIVE_FOR_S: Final = 25.0

#: Seconds since Redis last answered after which a worker no longer counts as ready.
REACHED_FOR_S: Final = 16.0

#: Maximum bytes to read of the file.
MAX_FILE_BYTES: Final = 65_536

#: States of a worker.
STARTING: Final = "starting"
READY: Final = "ready"
STALLED: Final = "stalled"
STOPPING: Final = "stopping"

_STATES: Final = (STARTING, READY, STALLED, STOPPING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A worker's report on itself."""

    pid: int
    #: starting, ready, stalled or stopping. Loading a model embeds its probe texts, so a ready worker can embed.
    state: str
    #: Time of the last beat in seconds since boot, so that changes of the wall clock do not matter.
    beat_at_s: float
    #: Time of Redis's last answer, on the same clock; 0: never.
    reached_at_s: float = 0.0
    #: Why the worker is not ready.
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Result of a probe."""

    is_well: bool
    #: Explanation in one line.
    line: str


def now_s() -> float:
    """Return the seconds since boot, including sleep; the same in every process of this machine."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def write(path: Path, health: Health) -> None:
    """Replace the file atomically, so that no reader sees half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(asdict(health)), encoding="utf-8")
    fresh.replace(path)


def read(path: Path) -> Health | None:
    """Read the file; return None if it is missing or not written by a worker.

    Raises:
        PermissionError: another user owns the file and it is not readable.
    """
    try:
        values = json.loads(_read(path))
        health = Health(**{f.name: values[f.name] for f in fields(Health) if f.name in values})
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    numbers = (health.beat_at_s, health.reached_at_s)
    is_sound = (
        type(health.pid) is int
        and health.pid > 0
        and health.state in _STATES
        and type(health.reason) is str
        and all(type(number) in (int, float) for number in numbers)
    )
    return health if is_sound else None


def _read(path: Path) -> bytes:
    """Read the start of the file; return nothing if a pipe is in its place, instead of waiting for it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, MAX_FILE_BYTES)
    finally:
        os.close(descriptor)


def is_running(pid: int) -> bool:
    """Return whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def judge_live(health: Health, now_s: float) -> Verdict:
    """Return whether the main process beats, whatever Redis does. While it loads models, one beat is enough."""
    age_s = now_s - health.beat_at_s
    if health.state == STALLED:
        return Verdict(is_well=False, line=f"stalled: {health.reason}")
    if health.state == READY and age_s > LIVE_FOR_S:
        return Verdict(is_well=False, line=f"frozen: no beat for {age_s:.0f} s, limit {LIVE_FOR_S:.0f} s")
    return Verdict(is_well=True, line=f"live: {health.state}, last beat {max(age_s, 0):.1f} s ago")


def judge_ready(health: Health, now_s: float) -> Verdict:
    """Return whether the worker takes work now."""
    live = judge_live(health, now_s)
    if not live.is_well:
        return live
    if health.state != READY:
        return Verdict(is_well=False, line=f"{health.state}: {health.reason or 'it takes no work'}")
    age_s = now_s - health.reached_at_s
    if age_s > REACHED_FOR_S:
        since = f"for {age_s:.0f} s" if health.reached_at_s else "yet"
        return Verdict(is_well=False, line=f"waiting: Redis has not answered {since}")
    return Verdict(is_well=True, line=f"ready: Redis answered {max(age_s, 0):.1f} s ago")
