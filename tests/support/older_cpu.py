#!/usr/bin/env python3
"""Run a command as on an x86 CPU that has AVX2 and nothing newer: no AVX-512, VNNI, BF16 or AMX.

    python tests/support/older_cpu.py make test

CPUID is masked (see older_cpu.c), and so is /proc/cpuinfo, in a mount namespace of the command's own. Needs Linux on
x86-64, a CPU or hypervisor whose CPUID can fault, a C compiler, and root for the mount.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

#: CPU flags that Linux names and that came after AVX2.
NEWER = re.compile(r" (?:avx512\w*|avx_\w+|avx10\w*|amx_\w+|gfni|vaes|vpclmulqdq)\b")

CPUINFO = Path("/proc/cpuinfo")


def main(command: list[str]) -> int:
    """Run the command; return its exit code."""
    if not command:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        library, cpuinfo = Path(folder, "older_cpu.so"), Path(folder, "cpuinfo")
        source = Path(__file__).with_name("older_cpu.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        cpuinfo.write_text(NEWER.sub("", CPUINFO.read_text()))
        mount = 'mount --bind "$1" /proc/cpuinfo && shift && LD_PRELOAD="$1" && export LD_PRELOAD && shift && exec "$@"'
        inside = ["unshare", "--mount", "sh", "-c", mount, "sh", cpuinfo, library, *command]
        return subprocess.run(inside, env=os.environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
