"""Which command runs, and how it ends: one line and a named exit code for everything that can go wrong."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final

from embedmill_worker import exit_codes
from embedmill_worker.cli import flags, health
from embedmill_worker.cli.commands import bench, dead, demo, embed, jobs, models, reindex, serve, status, up, worker
from embedmill_worker.cli.terminal import say

COMMANDS: Final = (up, demo, worker, serve, embed, reindex, jobs, dead, status, health, models, bench)

#: Seconds until a signal that came during an import comes once more.
RETRY_S: Final = 0.02

#: Where CPython imports modules.
_IMPORTING: Final = "<frozen importlib._bootstrap>"

_EPILOG: Final = """\
examples:
  # this help, and the version
  embedmill
  embedmill --version
  # a server and a worker on this machine, until Ctrl-C
  embedmill up
  # what it can do, on real text, with nothing to configure
  embedmill demo
  # a vector for every line of a file
  embedmill embed corpus.txt --output vectors.npy

exit codes:
""" + "".join(f"  {code:3d}  {meaning}\n" for code, meaning in exit_codes.MEANINGS.items())


def parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; reads the environment for the flags' defaults."""
    root = argparse.ArgumentParser(
        prog="embedmill",
        description="Embeddings on CPUs, through a durable queue.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.set_defaults(run=lambda _: root.print_help())
    root.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and end")
    commands = root.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return root


class _ShowVersion(argparse.Action):
    """Print the version, which nobody else has to wait for, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from embedmill import __version__

        print(f"embedmill {__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    try:
        args = parser().parse_args(argv)
        args.given = list(sys.argv[1:] if argv is None else argv)
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell has it ignored in the background
            signal.signal(signal.SIGINT, _interrupt)
        return _run(args)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED


def _run(args: argparse.Namespace) -> int:
    from embedmill.errors import EmbedError, SettingsError

    try:
        code: int | None = args.run(args)
        return code or exit_codes.OK
    except EmbedError as error:
        if isinstance(error, SettingsError):
            error = SettingsError(flags.origin(error.name, args), error.value, error.reason)
        say(str(error))
        return exit_codes.of(error)
    except BrokenPipeError:
        # The reader has gone; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.FAILURE
    except ModuleNotFoundError as error:
        say(f"this command needs {error.name}, which is not installed; run: pip install 'embedmill[all]'")
        return exit_codes.FAILURE
    except OSError as error:
        say(f"{error.filename or 'system'}: {error.strerror or error}")
        return exit_codes.FAILURE


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End a command, by Ctrl-C or SIGTERM, so that it cleans up; in the middle of an import, as soon as that is done.

    CPython 3.11 turns what interrupts the making of a class into a RuntimeError, and libraries pass over an optional
    module that fails so: the signal would be lost, or end in a traceback.
    """
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            again = threading.Timer(RETRY_S, signal.pthread_kill, (threading.main_thread().ident, number))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt
