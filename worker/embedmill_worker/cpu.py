"""What the CPU can do, as far as it changes how numbers round or which precision pays."""

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


#: Flags of x86 CPUs whose sums of byte products cannot overflow.
VNNI: Final = ("avx512_vnni", "avx_vnni")

CPUINFO: Final = Path("/proc/cpuinfo")


def instruction_set(cpuinfo: Path = CPUINFO) -> str:
    """Give the widest of ``INSTRUCTION_SETS``, or the architecture where the system does not tell."""
    flags = _flags(cpuinfo)
    return next((name for name in INSTRUCTION_SETS if name in flags), platform.machine())


def is_x86_without_vnni(cpuinfo: Path = CPUINFO) -> bool:
    """Say whether products of unsigned and signed bytes may overflow in their 16-bit sums."""
    flags = _flags(cpuinfo)
    return "avx2" in flags and not any(name in flags for name in VNNI)


def slow_int8(cpuinfo: Path = CPUINFO) -> str:
    """Return what int8 gains on this CPU where that is little, as a sentence; "" where it gains much."""
    if not is_x86_without_vnni(cpuinfo):
        return ""
    return (
        f"this CPU ({instruction_set(cpuinfo)}) has no VNNI, so int8 is only 1.1 to 1.2 times as fast as fp32 "
        "(with VNNI: more than 2); it saves memory all the same"
    )


def _flags(cpuinfo: Path) -> list[str]:
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
