"""Dispatch of commands; every failure becomes one line on stderr and a named exit code."""

from __future__ import annotations

import _thread
import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from types import FrameType
from typing import Any, Final

from embedmill_worker import exit_codes
from embedmill_worker.cli import commands, flags, health
from embedmill_worker.cli.terminal import say

#: Order of the commands in the help; those that are not named here follow.
_ORDER: Final = [
    "up",
    "demo",
    "worker",
    "serve",
    "embed",
    "batch",
    "reindex",
    "jobs",
    "dead",
    "status",
    "health",
    "models",
    "bench",
]

#: Modules by command: ``health``, and those of ``commands/``; one with an underscore in its name is a part of another.
_MODULES: Final = {"health": health} | {
    name: import_module(f"{commands.__name__}.{name}")
    for _, name, _ in iter_modules(commands.__path__)
    if "_" not in name
}

#: Seconds after which a signal that arrived during an import is sent again.
RETRY_S: Final = 0.02

#: File name of the frames in which CPython imports modules.
_IMPORTING: Final = "<frozen importlib._bootstrap>"

_EPILOG: Final = """\
examples:
  # show this help, and the version
  embedmill
  embedmill --version
  # run a Valkey server and a worker on this machine, until Ctrl-C
  embedmill up
  # see it work on real text, with nothing to configure
  embedmill demo
  # compute a vector for each line of a file
  embedmill embed corpus.txt --output vectors.npy

Run `embedmill COMMAND --help` for the options and examples of a command.

exit codes:
""" + "".join(f"  {code:3d}  {meaning}\n" for code, meaning in exit_codes.MEANINGS.items())


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands; the flags' defaults are read from the environment."""
    root = argparse.ArgumentParser(
        prog="embedmill",
        description="Compute text embeddings on CPUs, through a durable queue in Redis.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.set_defaults(run=lambda _: root.print_help())
    root.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    added = root.add_subparsers(title="commands", metavar="COMMAND")
    for name in sorted(_MODULES, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)):
        _MODULES[name].add(added)
    return root


class _ShowVersion(argparse.Action):
    """Action that prints the version and exits; the version is loaded only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from embedmill import __version__

        print(f"embedmill {__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        args = parser().parse_args(argv)
        args.given = list(sys.argv[1:] if argv is None else argv)
        interrupt = _Interrupt()
        signal.signal(signal.SIGTERM, interrupt)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # background jobs of a shell ignore it
            signal.signal(signal.SIGINT, interrupt)
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
        # The reader of the pipe has gone; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.FAILURE
    except ModuleNotFoundError as error:
        say(f"this command needs {error.name}, which is not installed; run: pip install 'embedmill[all]'")
        return exit_codes.FAILURE
    except OSError as error:
        say(f"{error.filename or 'system'}: {error.strerror or error}")
        return exit_codes.FAILURE


class _Interrupt:
    """The handler of Ctrl-C and SIGTERM: it interrupts the command, so that it cleans up; an import is ended first.

    CPython 3.11 turns an exception raised while a class is created into a RuntimeError, and libraries ignore an
    optional module that fails that way: the signal would be lost, or end in a traceback.
    """

    def __init__(self) -> None:
        self._main = threading.main_thread().ident or 0
        #: Whether a signal arrived during an import and has not interrupted yet, and whether it is being sent again.
        self._is_due = False
        self._is_sending = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename == _IMPORTING:
                self._is_due = True
                if not self._is_sending:
                    # Not a threading.Thread: its start() takes locks, which the interrupted code may hold.
                    _thread.start_new_thread(self._send_again, (number,))
                return
            frame = frame.f_back
        self._is_due = False
        raise KeyboardInterrupt

    def _send_again(self, number: int) -> None:
        """Send the signal until it interrupts: one that comes just before a read begins is too early."""
        while True:
            self._is_sending = False  # so that a signal that comes now has a sender
            if not self._is_due:
                return
            self._is_sending = True
            time.sleep(RETRY_S)
            if self._is_due:
                self._is_due = signal.getsignal(number) is self  # else another handler gets it, once
                signal.pthread_kill(self._main, number)
