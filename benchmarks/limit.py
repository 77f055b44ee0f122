"""Run a command, and all it starts, within a limit of memory that Linux enforces; print what it took as JSON.

    python benchmarks/limit.py 1000 python benchmarks/run.py sizing --shapes multilingual-MiniLM-L12

The limit is in MB (10⁶ bytes) and holds for processes and for the files they read together; there is no swap beside it.
Whoever goes beyond it is killed, which is counted. Needs control groups of version 1 and the right to make one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

CONTROLLER = Path("/sys/fs/cgroup/memory")
SAMPLE_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """MB."""

    #: Highest of what is nobody's but the processes'.
    anonymous: float
    #: Highest of that and the files that are mapped, which Linux drops and reads again when memory is short.
    with_mapped_files: float
    #: Highest of everything that counts against the limit, cached files included: it tends to the limit.
    with_cached_files: float
    processes_killed: int
    exit_code: int


@contextmanager
def group(limit_mb: float, place: Path) -> Iterator[Path]:
    """Make a control group below another one; it goes with the block."""
    own = place / f"embedmill-{os.getpid()}"
    own.mkdir()
    try:
        (own / "memory.limit_in_bytes").write_text(str(int(limit_mb * 1e6)))
        (own / "memory.swappiness").write_text("0")
        yield own
    finally:
        own.rmdir()


def own_place() -> Path:
    """Return the group that this process is in, so that limits above it hold, too."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    paths = [path for _, controllers, path in (line.split(":", 2) for line in lines) if controllers == "memory"]
    if not paths or not (CONTROLLER / "cgroup.procs").is_file():
        raise SystemExit("there is no memory controller of version 1 here")
    return CONTROLLER / paths[0].lstrip("/")


def run(command: list[str], own: Path) -> Taken:
    """Run a command in a group, and look on."""

    def enter() -> None:
        (own / "cgroup.procs").write_text(str(os.getpid()))

    anonymous = mapped = 0.0
    with subprocess.Popen(command, preexec_fn=enter, stdout=sys.stderr) as process:
        while True:
            now = stat(own / "memory.stat")
            anonymous = max(anonymous, now["total_rss"])
            mapped = max(mapped, now["total_rss"] + now["total_mapped_file"])
            try:
                process.wait(SAMPLE_S)
                break
            except subprocess.TimeoutExpired:
                continue
    return Taken(
        anonymous=anonymous / 1e6,
        with_mapped_files=mapped / 1e6,
        with_cached_files=int((own / "memory.max_usage_in_bytes").read_text()) / 1e6,
        processes_killed=stat(own / "memory.oom_control")["oom_kill"],
        exit_code=process.returncode,
    )


def stat(file: Path) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, file.read_text().splitlines())}


def main() -> None:
    with group(float(sys.argv[1]), own_place()) as own:
        taken = run(sys.argv[2:], own)
    print(json.dumps(asdict(taken), indent=2))
    sys.exit(taken.exit_code or min(taken.processes_killed, 1))


if __name__ == "__main__":
    main()
