"""Commands for child processes that must not outlive this one."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import Final

#: Program that asks Linux to kill it when its parent thread dies, and then becomes the command. It replaces
#: `preexec_fn`, which may deadlock in a parent that has threads. 1 is PR_SET_PDEATHSIG.
_TRAMPOLINE: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def tethered(command: Sequence[str]) -> list[str]:
    """Wrap a command so that Linux kills it when the thread that starts it dies, for whatever reason.

    On other systems, and in threads other than the main one, the command is returned unchanged.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), *command]
