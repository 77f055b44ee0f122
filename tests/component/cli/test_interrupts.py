"""A signal in the middle of an import: CPython and libraries would lose it, or make another error of it."""

import signal
import subprocess
import sys

import pytest

from embedmill_worker import exit_codes

MODULE = """
import os, sys

class Signalled:
    def __set_name__(self, owner, name):  # what is raised here is a RuntimeError on CPython 3.11
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))

try:
    class Made:
        part = Signalled()
except Exception:  # as libraries do with what is optional
    pass
print("imported", flush=True)
"""

COMMAND = """
import signal, sys, time
from embedmill_worker.cli import dispatch
from embedmill_worker.cli.commands import status

def run(args):
    for module in ("signalled", "signalled_again"):  # the second one after a whole cleanup
        try:
            __import__(module)
            time.sleep(100)
        except KeyboardInterrupt:
            time.sleep(0.2)
            print("cleaned up", flush=True)
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, signal.default_int_handler)
status.run = run
sys.exit(dispatch.main(["status"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_each_signal_during_an_import_interrupts_once_when_that_is_done(tmp_path, number):
    for name in ("signalled", "signalled_again"):
        (tmp_path / f"{name}.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env={"PYTHONPATH": str(tmp_path), "SIGNAL": str(int(number)), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (exit_codes.INTERRUPTED, 2 * "imported\ncleaned up\n", "")
