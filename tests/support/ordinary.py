"""Commands run as a user for whom the modes of files count: root alone may read and write everything."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

#: Takes from root, before a command, what lets it pass over modes: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, out of
#: the bounding set (24 is PR_CAPBSET_DROP). It stays the owner of its files, so that Python itself may lie in its home.
_DROP = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for capability in (1, 2):
    if libc.prctl(24, capability, 0, 0, 0):
        sys.exit(f"capability {capability} stays: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
"""


def command(*words: object) -> list[str]:
    """The command as such a user runs it; as it is for whoever is one already."""
    given = [str(word) for word in words]
    return [sys.executable, "-I", "-S", "-c", _DROP, *given] if os.geteuid() == 0 else given


def python(*words: object, env: Mapping[str, str] | None = None, limit_s: float = 120.0) -> subprocess.CompletedProcess:
    """Runs Python as such a user, and waits for its end."""
    return subprocess.run(
        command(sys.executable, *words),
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
        env={**os.environ, **(env or {})},
    )


def embedmill(words: Sequence[object], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
    """Runs the command line as such a user."""
    return python("-m", "embedmill_worker.cli", *words, env=env)
