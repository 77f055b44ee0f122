"""Memory of a process tree on Linux as proportional set size: shared pages are split among their processes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final, Self

PROC: Final = Path("/proc")

#: Seconds between two samples of ``PeakMemory``.
SAMPLE_S: Final = 0.5


def tree(pid: int, proc: Path = PROC) -> list[int]:
    """Return the ids of a process and of its running descendants."""
    found = [pid]
    for parent in found:
        for children in proc.glob(f"{parent}/task/*/children"):
            try:
                found.extend(map(int, children.read_text().split()))
            except OSError:
                continue  # the process exited meanwhile
    return found


def tree_mb(pid: int, proc: Path = PROC) -> float:
    """Return the proportional set size of a process and its descendants, MB (10⁶ bytes); 0 if it is unknown."""
    return sum(process_mb(each, proc) for each in tree(pid, proc))


def process_mb(pid: int, proc: Path = PROC, *, counted: str = "Pss") -> float:
    """Return the proportional set size of one process, MB (10⁶ bytes); 0 if it is unknown.

    Args:
        pid: id of the process.
        proc: where the proc file system is mounted.
        counted: ``Pss`` for all of it; ``Pss_Anon`` without mapped files, which Linux drops when memory is short.
    """
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{counted}:")), 0) * 1024 / 1e6


class PeakMemory:
    """Context manager that samples the memory of a process tree in a thread; ``mb`` is the highest sample."""

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
