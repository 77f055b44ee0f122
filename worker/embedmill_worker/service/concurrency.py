"""How many CPUs this process may use: its affinity, and the quota of its cgroup (v1 and v2)."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = CGROUP) -> int:
    """Give the whole CPUs that affinity and quota leave, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cpus(cgroup)
    return max(1, affinity if quota is None else min(affinity, int(quota)))


def quota_cpus(cgroup: Path = CGROUP) -> float | None:
    """Give the CPUs that the cgroup's quota allows, None for no quota or none that can be read."""
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
