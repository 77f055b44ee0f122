"""CPUs: how many this process may use, and which of their features change speed or rounding."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

#: CPU flags, the widest first, that change which kernels run and so how results round.
INSTRUCTION_SETS: Final = (
    "amx_tile",
    "avx512_bf16",
    "avx512_vnni",
    "avx512f",
    "avx2",
    "avx",
    "i8mm",
    "asimddp",
    "asimd",
)


#: Flags of x86 CPUs on which sums of byte products cannot overflow.
VNNI: Final = ("avx512_vnni", "avx_vnni")

CPUINFO: Final = Path("/proc/cpuinfo")

CGROUP: Final = Path("/sys/fs/cgroup")


def instruction_set(cpuinfo: Path = CPUINFO) -> str:
    """Return the widest of ``INSTRUCTION_SETS`` that the CPU has; the architecture if no flag is found."""
    flags = _flags(cpuinfo)
    return next((name for name in INSTRUCTION_SETS if name in flags), platform.machine())


def is_x86_without_vnni(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether 16-bit sums of products of unsigned and signed bytes may overflow."""
    flags = _flags(cpuinfo)
    return "avx2" in flags and not any(name in flags for name in VNNI)


def slow_int8(cpuinfo: Path = CPUINFO) -> str:
    """Return a sentence on how little int8 gains on this CPU; "" if it gains much."""
    if not is_x86_without_vnni(cpuinfo):
        return ""
    return (
        f"this CPU ({instruction_set(cpuinfo)}) has no VNNI, so int8 is only 1.1 to 1.2 times as fast as fp32 "
        "(with VNNI: more than 2); it still saves memory"
    )


def _flags(cpuinfo: Path) -> list[str]:
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])


def usable_cpus(cgroup: Path = CGROUP) -> int:
    """Return the number of whole CPUs that affinity and quota allow, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cpus(cgroup)
    return max(1, affinity if quota is None else min(affinity, int(quota)))


def quota_cpus(cgroup: Path = CGROUP) -> float | None:
    """Return the number of CPUs that the cgroup's quota allows; None if no quota is set or readable."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(quota) / int(period)
