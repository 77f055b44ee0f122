"""What the CPU can do, as far as it changes how numbers round."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

#: Names of CPU flags, the widest first, that change which kernels run and so how they round.
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


def instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Give the widest of ``INSTRUCTION_SETS``, or the architecture where the system does not tell."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return platform.machine()
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    return next((name for name in INSTRUCTION_SETS if name in flags), platform.machine())
