"""The command ``embedmill up``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import socket
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from embedmill.model_spec import ModelSpec
from embedmill.whereabouts import FILE_NAME, Whereabouts, started
from embedmill_worker.cli import flags
from embedmill_worker.cli.terminal import say
from embedmill_worker.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    from embedmill.settings import ClientSettings
    from embedmill.status import QueueStatus
    from embedmill_worker.cli.local.server import EmbeddedValkey
    from embedmill_worker.cli.local.worker_process import ChildProcess, WorkerProcess
    from embedmill_worker.settings import WorkerSettings

#: The gateway's ports where none are named; the second is the Rust embedding service's.
DEFAULT_PORT: Final = 8080
DEFAULT_GRPC_PORT: Final = 6010

_EPILOG = """\
  # run a Valkey server and a worker until Ctrl-C; the other commands of this user find them
  embedmill up
  # run a worker on a Redis that is there already
  embedmill up --redis-url redis://127.0.0.1:6379/0

The queue is kept in FOLDER/valkey, so the next `embedmill up` continues unfinished jobs. FOLDER is the data folder.
While it runs, FOLDER/up.json holds the URL for commands and clients that are given none. The `export` line that is
printed is for those that use another data folder, another user or another machine.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "run all that is needed on this machine, in the foreground: a Valkey server, a worker and a gateway"
    parser = flags.command(commands, "up", run, help=text, epilog=_EPILOG)
    flags.worker_flags(parser, redis="a Valkey server that this command runs", space="embedmill")
    gateway = parser.add_argument_group("gateway")
    text = "port for HTTP on loopback, 0 for none (default: 8080, if it is free)"
    flags.flag(gateway, "--port", "EMBEDMILL_HTTP_PORT", "N", text)
    text = "port for gRPC on loopback, 0 for none (default: 6010, if it is free)"
    flags.flag(gateway, "--grpc-port", "EMBEDMILL_GRPC_PORT", "N", text)
    text = "most memory for the data of the Valkey server that this command runs, in MiB (default: 512)"
    server = parser.add_argument_group("server")
    flags.flag(server, "--maxmemory-mib", "EMBEDMILL_MAXMEMORY_MIB", "N", text, type=flags.number, default="512")


def run(args: argparse.Namespace) -> int:
    """Run a server and a worker until Ctrl-C or SIGTERM, which stop both in order; exit code 0 then."""
    from embedmill.urls import mask_url
    from embedmill_worker.cli.local.server import EmbeddedValkey
    from embedmill_worker.cli.local.worker_process import WorkerProcess
    from embedmill_worker.settings import WorkerSettings

    environment = flags.worker_environment(args)
    data_dir = WorkerSettings.from_env(environment).data_dir.absolute()
    folder = data_dir / "valkey"
    server: EmbeddedValkey | None = None
    with ExitStack() as stack:
        if args.redis_url is None or is_own(args.redis_url, folder):
            server = EmbeddedValkey(folder, persistent=True, maxmemory_bytes=args.maxmemory_mib << 20)
            environment["EMBEDMILL_REDIS_URL"] = stack.enter_context(server).url
        else:
            say(f"using Redis at {mask_url(args.redis_url)}")
        notice = stack.enter_context(closing(Notice(WorkerSettings.from_env(environment), data_dir)))
        worker = stack.enter_context(WorkerProcess(environment, log_level=args.log_level))
        gateway = Gateway(args, environment, stack)
        try:
            return watch(worker, gateway, server, environment, notice)
        except KeyboardInterrupt:
            say("stopping after the running chunks (press Ctrl-C again to stop at once)")
            gateway.stop()
            worker.stop()
            return 0


class Gateway:
    """The gateway of this ``up``. If another program takes its ports meanwhile, it looks for ports once more."""

    def __init__(self, args: argparse.Namespace, environment: Mapping[str, str], stack: ExitStack) -> None:
        """Start it, if it is to run; it ends with the stack."""
        self._args = args
        self._environment = environment
        self._stack = stack
        self._may_retry = args.port is None or args.grpc_port is None
        self._process = self._start()

    def _start(self) -> ChildProcess | None:
        process = new_gateway(self._args, self._environment)
        return None if process is None else self._stack.enter_context(process)

    def exit_code(self) -> int | None:
        """Return how it ended; None while it runs, or if there is none."""
        from embedmill_worker import exit_codes

        code = None if self._process is None else self._process.exit_code
        if code == exit_codes.SETTINGS and self._may_retry:
            self._may_retry = False
            self._process = self._start()
            return None
        return code

    def stop(self) -> None:
        """Stop it after the requests under way."""
        if self._process is not None:
            self._process.stop()


def new_gateway(args: argparse.Namespace, environment: Mapping[str, str]) -> ChildProcess | None:
    """Return the gateway on loopback, not yet started; None: its ports are 0 or taken, or it is not installed.

    Raises:
        SettingsError: a port that was asked for is taken.
    """
    from embedmill_worker.cli.local.worker_process import ChildProcess, gateway_command

    port = free_port("--port", args.port, DEFAULT_PORT)
    grpc_port = free_port("--grpc-port", args.grpc_port, DEFAULT_GRPC_PORT)
    if not port and not grpc_port:
        return None
    if importlib.util.find_spec("uvicorn") is None:
        say("the gateway is not installed, and so not started; run: pip install 'embedmill[gateway]'")
        return None
    if port:
        say(f"the gateway serves OpenAI's routes at http://127.0.0.1:{port}/v1, and TEI's and Ollama's")
        say(f"its page is at http://127.0.0.1:{port}/")
    if grpc_port:
        say(f"the gateway serves gRPC at 127.0.0.1:{grpc_port}")
    level = "WARNING" if args.log_level == "INFO" else args.log_level
    return ChildProcess(gateway_command(level, port=port, grpc_port=grpc_port), environment)


def free_port(flag: str, asked: str | None, default: int) -> int:
    """Return the port to listen on; 0 if none was asked for and the default one is taken.

    Raises:
        SettingsError: it is not a port, or it was asked for and is taken.
    """
    from embedmill.errors import SettingsError

    if asked is not None and not (asked.isascii() and asked.isdecimal() and int(asked) < 1 << 16):
        raise SettingsError(flag, asked, "give a port from 1 to 65535, or 0 for none")
    port = default if asked is None else int(asked)
    if not port:
        return 0
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        if asked is not None:
            raise SettingsError(flag, asked, f"cannot listen on it: {error.strerror}; give another one") from None
        say(f"port {port} is in use, so the gateway does not listen there; name another one with {flag}")
        return 0
    return port


def located(spec: ModelSpec) -> ModelSpec:
    """Return a model's spec with absolute paths, so that it means the same in every working folder."""
    if spec.place != spec.name or spec.place == DEFAULT_MODEL or not os.path.isdir(spec.place):  # noqa: PTH112
        return spec.absolute()
    return ModelSpec(name=spec.name, place=os.path.abspath(spec.place))  # noqa: PTH100


class Notice:
    """The file in the data folder by which other commands find this ``up``."""

    def __init__(self, settings: WorkerSettings, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._is_posted = False
        self._whereabouts = Whereabouts(
            redis_url=settings.redis_url,
            namespace=settings.namespace,
            models=tuple(str(located(spec)) for spec in settings.models),
            pid=os.getpid(),
            started=started(os.getpid()),
        )

    def post(self) -> None:
        """Write the file at the first call, unless it names another running ``up``; a failure is only reported."""
        if self._is_posted:
            return
        self._is_posted = True
        other = Whereabouts.read(self._data_dir)
        if other is not None and other.pid != os.getpid():
            path = self._data_dir / FILE_NAME
            say(f"{path} names another `embedmill up` (process {other.pid}); commands find that one, not this one")
            return
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._whereabouts.write(self._data_dir)
        except OSError as error:
            path = self._data_dir / FILE_NAME
            say(f"{path} cannot be written: {error.strerror}; commands need the `export` line that is printed")

    def close(self) -> None:
        """Remove the file if this ``up`` wrote it."""
        self._whereabouts.remove(self._data_dir)


def watch(
    worker: WorkerProcess,
    gateway: Gateway,
    server: EmbeddedValkey | None,
    environment: Mapping[str, str],
    notice: Notice,
) -> int:
    """Wait until a part ends, and announce when server and worker are ready; return the exit code."""
    from embedmill.settings import ClientSettings
    from embedmill_worker import exit_codes

    settings = ClientSettings.from_env(environ=environment)
    is_announced = False
    while True:
        code = worker.wait(1.0 if is_announced else 0.1)
        if code is not None:
            say(f"the worker ended with exit code {code}; its log is above")
            return code or exit_codes.FAILURE
        if (code := gateway.exit_code()) is not None:
            say(f"the gateway ended with exit code {code}")
            return code or exit_codes.FAILURE
        if server is not None and not server.alive:
            say(f"the Valkey server ended; its log is {server.folder / 'valkey.log'}")
            return exit_codes.BROKER
        if not is_announced and (status := look(settings)) is not None:
            notice.post()
            if is_ready(status, worker.pid):
                is_announced = True
                announce(settings)


def look(settings: ClientSettings) -> QueueStatus | None:
    """Return the status of the queue, None while Redis does not answer."""
    from embedmill.errors import BrokerUnavailableError
    from embedmill.status import read_status

    try:
        return read_status(settings, timeout_s=1.0)
    except BrokerUnavailableError:
        return None


def is_ready(status: QueueStatus, pid: int) -> bool:
    """Return whether the worker with this process id takes work."""
    from embedmill.status import READY

    return any(w.pid == pid and w.state == READY for w in status.workers)


def announce(settings: ClientSettings) -> None:
    """Print the shell lines by which clients elsewhere find this ``up``."""
    from embedmill.settings import DEFAULT_NAMESPACE

    say("ready; other commands find it. The following is needed only from another data folder, user or machine:")
    print(f"export EMBEDMILL_REDIS_URL={shlex.quote(settings.redis_url)}", flush=True)
    if settings.namespace != DEFAULT_NAMESPACE:
        print(f"export EMBEDMILL_NAMESPACE={settings.namespace}", flush=True)


def is_own(redis_url: str, folder: Path) -> bool:
    """Return whether the URL is that of our own server in ``folder``, as exported from an earlier ``up``."""
    parts = urlsplit(redis_url)
    return parts.scheme == "unix" and Path(unquote(parts.path)).parent == folder.resolve()
