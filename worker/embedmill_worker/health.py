"""A worker's health as a small file: written by its main process at each beat, read by probes.

Imports next to nothing and asks nobody: a probe costs a few milliseconds, and a Redis that is down ends no worker.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

#: Names the file; nothing is written if it is not set.
HEALTH_FILE_ENV: Final = "EMBEDMILL_HEALTH_FILE"

#: Seconds without a beat after which the main process no longer counts as live. Celery waits for a frozen Redis in
#: several calls of 5 s each before it says so.
LIVE_FOR_S: Final = 25.0

#: Seconds since Redis last answered after which a worker no longer counts as ready.
REACHED_FOR_S: Final = 16.0

#: Bytes of the file.
MAX_FILE_BYTES: Final = 65_536

#: States of a worker.
STARTING: Final = "starting"
READY: Final = "ready"
STALLED: Final = "stalled"
STOPPING: Final = "stopping"

_STATES: Final = (STARTING, READY, STALLED, STOPPING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a worker says of itself."""

    pid: int
    #: starting, ready, stalled or stopping. A model embeds its probe texts while it is loaded: ready follows on that.
    state: str
    #: Seconds of the machine's clock since boot, which no change of the wall clock moves.
    beat_at_s: float
    #: When Redis last answered, on the same clock; 0: never.
    reached_at_s: float = 0.0
    #: Why it is not ready.
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An answer to a probe."""

    is_well: bool
    #: One line.
    line: str


def now_s() -> float:
    """Return the seconds since boot, sleep included, alike in every process of this machine."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def write(path: Path, health: Health) -> None:
    """Replace the file at once, so that no reader sees half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(asdict(health)), encoding="utf-8")
    fresh.replace(path)


def read(path: Path) -> Health | None:
    """Read the file; None if there is none that a worker wrote.

    Raises:
        PermissionError: it is another user's, who lets nobody read it.
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
    """Read the file's beginning; a pipe in its place, which might never end, gives nothing at once."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, MAX_FILE_BYTES)
    finally:
        os.close(descriptor)


def is_running(pid: int) -> bool:
    """Return whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def judge_live(health: Health, now_s: float) -> Verdict:
    """Return whether the main process does its rounds; Redis does not matter. One that loads models beats only once."""
    age_s = now_s - health.beat_at_s
    if health.state == STALLED:
        return Verdict(is_well=False, line=f"stalled: {health.reason}")
    if health.state == READY and age_s > LIVE_FOR_S:
        return Verdict(is_well=False, line=f"frozen: no beat for {age_s:.0f} s, at most {LIVE_FOR_S:.0f} are allowed")
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
