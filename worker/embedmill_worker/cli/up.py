"""``embedmill up``."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import say

if TYPE_CHECKING:
    from embedmill.settings import ClientSettings
    from embedmill_worker.cli.child import WorkerProcess
    from embedmill_worker.valkey import EmbeddedValkey

_EPILOG = """\
  # a server and a worker, until Ctrl-C; prints the line that points clients at them
  embedmill up
  # a worker on a Redis that is there already
  embedmill up --redis-url redis://127.0.0.1:6379/0

Data is kept in FOLDER/valkey; a later `up` goes on with the jobs that are there.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "run everything on this machine, in the foreground: embedded Valkey and one worker"
    parser = flags.command(commands, "up", run, help=text, epilog=_EPILOG)
    flags.worker_flags(parser)
    text = "most memory for the embedded Valkey's data, in MiB; default 512"
    flags.flag(parser, "--maxmemory-mib", "EMBEDMILL_MAXMEMORY_MIB", "N", text, type=flags.number, default="512")


def run(args: argparse.Namespace) -> int:
    """Start, say where, and wait for Ctrl-C or SIGTERM; both end it in order, with exit code 0."""
    from embedmill.redis_url import mask_url
    from embedmill_worker.cli.child import WorkerProcess
    from embedmill_worker.settings import WorkerSettings
    from embedmill_worker.valkey import EmbeddedValkey

    environment = flags.worker_environment(args)
    folder = WorkerSettings.from_env(environment).data_dir.absolute() / "valkey"
    server: EmbeddedValkey | None = None
    with ExitStack() as stack:
        if args.redis_url is None or is_own(args.redis_url, folder):
            server = EmbeddedValkey(folder, persistent=True, maxmemory_bytes=args.maxmemory_mib << 20)
            environment["EMBEDMILL_REDIS_URL"] = stack.enter_context(server).url
        else:
            say(f"using Redis at {mask_url(args.redis_url)}")
        worker = stack.enter_context(WorkerProcess(environment, log_level=args.log_level))
        try:
            return watch(worker, server, environment)
        except KeyboardInterrupt:
            say("stopping; Ctrl-C again to stop at once")
            worker.stop()
            return 0


def watch(worker: WorkerProcess, server: EmbeddedValkey | None, environment: Mapping[str, str]) -> int:
    """Say when the worker is ready, then wait for the end of either; gives the exit code."""
    from embedmill.settings import ClientSettings
    from embedmill_worker import exit_codes

    settings = ClientSettings.from_env(environ=environment)
    is_announced = False
    while True:
        code = worker.wait(1.0 if is_announced else 0.1)
        if code is not None:
            say(f"the worker ended with exit code {code}")
            return code or exit_codes.FAILURE
        if server is not None and not server.alive:
            say(f"the embedded Valkey ended; its log is {server.folder / 'valkey.log'}")
            return exit_codes.BROKER
        if not is_announced and is_ready(settings, worker.pid):
            is_announced = True
            announce(settings)


def is_ready(settings: ClientSettings, pid: int) -> bool:
    """Say whether the worker of this process id takes work; False while Redis does not answer."""
    from embedmill.errors import BrokerUnavailableError
    from embedmill.status import READY, read_status

    try:
        return any(w.pid == pid and w.state == READY for w in read_status(settings, timeout_s=1.0).workers)
    except BrokerUnavailableError:
        return False


def announce(settings: ClientSettings) -> None:
    """Print the lines that point a shell's clients here."""
    from embedmill.settings import DEFAULT_NAMESPACE

    print(f"export EMBEDMILL_REDIS_URL={shlex.quote(settings.redis_url)}", flush=True)
    if settings.namespace != DEFAULT_NAMESPACE:
        print(f"export EMBEDMILL_NAMESPACE={settings.namespace}", flush=True)


def is_own(redis_url: str, folder: Path) -> bool:
    """Say whether the URL is the one that an earlier ``up`` printed and that was exported since."""
    parts = urlsplit(redis_url)
    return parts.scheme == "unix" and Path(unquote(parts.path)).parent == folder.resolve()
