"""A server whose clock a test sets: a program in the server's place that loads clock.c before it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PROGRAM = """#!/bin/sh
LD_PRELOAD={folder}/clock.so EMBEDMILL_TEST_CLOCK={folder}/moved exec {binary} "$@"
"""


class Clock:
    """The wall clock of every server that is started from ``program``.

    Raises:
        OSError: there is no C compiler.
        subprocess.CalledProcessError: it cannot make a library.
    """

    def __init__(self, binary: Path, folder: Path) -> None:
        self._moved = folder / "moved"
        self.move(0)
        source = Path(__file__).with_name("clock.c")
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", folder / "clock.so", source]
        # Compilers do not run as on an older CPU; see older_cpu.py.
        environ = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        subprocess.run(command, check=True, env=environ)
        #: In the place of the server's binary.
        self.program = folder / "valkey-server"
        self.program.write_text(PROGRAM.format(folder=folder, binary=binary))
        self.program.chmod(0o700)

    def move(self, seconds: int) -> None:
        """Set the clock so many seconds before (below 0) or after the true time."""
        with self._moved.open("r+b" if self._moved.exists() else "wb") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))
