"""Memory of a process tree as Linux counts it: pages that several processes share are split among them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final, Self

PROC: Final = Path("/proc")

#: Seconds between two samples of a peak.
SAMPLE_S: Final = 0.5


def tree(pid: int, proc: Path = PROC) -> list[int]:
    """Return a process and all its descendants that live."""
    found = [pid]
    for parent in found:
        for children in proc.glob(f"{parent}/task/*/children"):
            try:
                found.extend(map(int, children.read_text().split()))
            except OSError:
                continue  # it ended meanwhile
    return found


def tree_mb(pid: int, proc: Path = PROC) -> float:
    """Return the proportional set size of a process and its descendants, MB (10⁶ bytes); 0 if Linux does not tell."""
    return sum(process_mb(each, proc) for each in tree(pid, proc))


def process_mb(pid: int, proc: Path = PROC, *, counted: str = "Pss") -> float:
    """Return the proportional set size of one process, MB (10⁶ bytes); 0 where Linux does not tell.

    Args:
        pid: the process.
        proc: where Linux tells.
        counted: ``Pss`` for all of it; ``Pss_Anon`` without mapped files, which Linux drops when memory is short.
    """
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{counted}:")), 0) * 1024 / 1e6


class PeakMemory:
    """Samples a tree's memory in a thread while something runs; a context manager."""

    def __init__(self, pid: int) -> None:
        self.mb = 0.0
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.mb = max(self.mb, tree_mb(self._pid))
            if self._is_over.wait(SAMPLE_S):
                return
