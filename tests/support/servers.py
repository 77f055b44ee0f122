"""Redis servers besides the embedded one: on TCP ports, with sentinels, behind TLS. Each lives as long as its test."""

import select
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import redis
import trustme
from redis.backoff import NoBackoff
from redis.retry import Retry

from embedmill_worker.cli.local.die_with_parent import tethered

#: Seconds until a server answers, or sentinels agree; far more than they take.
PATIENCE_S = 60.0


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def plain_redis(redis_url: str, **options) -> redis.Redis:
    """Return a plain connection to a server, which waits for an answer however busy the machine is.

    redis-py gives up after five seconds, and a test beside a load would be red for it.
    """
    return redis.Redis.from_url(redis_url, **{"socket_timeout": PATIENCE_S, **options})


def save(redis_url: str) -> None:
    """Return once a server has on its disk what it has taken; until it is killed, it answers nothing that is not.

    Else it syncs every second, and later on a busy disk, and for so long may answer before it has written: no sleep is
    long enough before a kill that must lose nothing, not even that a job was deleted.
    """
    with plain_redis(redis_url) as client:  # a busy disk may take a while
        client.config_set("appendfsync", "always")
        client.set("embedmill-saved", 1, px=1)  # answered once it and all before it are synced


@dataclass
class Server:
    """A server process on a TCP port."""

    port: int
    process: subprocess.Popen

    def client(self, **options) -> redis.Redis:
        """A plain connection to it."""
        return redis.Redis("127.0.0.1", self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0), **options)

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.process.kill()
        self.process.wait(PATIENCE_S)


def start(binary: Path, folder: Path, port: int, *arguments: str, file: str = "") -> Server:
    """Starts a server; `file` is its configuration file's text."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "server.conf"
    configuration.write_text(file)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *arguments]
    with (folder / "server.log").open("ab") as log:
        command = tethered([str(binary), str(configuration), *options])
        server = Server(port, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with server.client() as client:
            try:
                client.ping()
                return server
            except redis.AuthenticationError:  # it answers
                return server
            except (redis.ConnectionError, redis.TimeoutError):
                pass
        assert server.process.poll() is None, (folder / "server.log").read_text()
        time.sleep(0.02)
    raise AssertionError("the server did not answer")


@dataclass
class Watched:
    """A master, a replica and three sentinels that watch them, all with passwords."""

    binary: Path
    folder: Path
    password: str = "zebra"
    sentinel_password: str = "quartz"
    servers: list[Server] = field(default_factory=list)
    sentinels: list[Server] = field(default_factory=list)

    def __enter__(self) -> "Watched":
        login = ["--requirepass", self.password, "--masterauth", self.password, "--repl-diskless-sync-delay", "0"]
        master, replica = free_port(), free_port()
        self.servers.append(start(self.binary, self.folder / "master", master, *login))
        follow = ["--replicaof", "127.0.0.1", str(master)]
        self.servers.append(start(self.binary, self.folder / "replica", replica, *login, *follow))
        self._wait(
            lambda: self.servers[1].client(password=self.password).info("replication")["master_link_status"] == "up"
        )
        for n in range(3):
            # A password of the sentinels is the one by which they speak to each other, too.
            file = f"""
                sentinel monitor mymaster 127.0.0.1 {master} 2
                sentinel auth-pass mymaster {self.password}
                sentinel down-after-milliseconds mymaster 1000
                sentinel failover-timeout mymaster 5000
                requirepass {self.sentinel_password}
            """
            self.sentinels.append(
                start(self.binary, self.folder / f"sentinel{n}", free_port(), "--sentinel", file=file)
            )
        for sentinel in self.sentinels:
            self._wait(lambda s=sentinel: self._agree(s))
        return self

    def __exit__(self, *error: object) -> None:
        for server in [*self.sentinels, *self.servers]:
            with suppress(ProcessLookupError):
                server.kill()

    def _is_replicated(self) -> bool:
        with self.servers[1].client(password=self.password) as replica:
            return replica.info("replication")["master_link_status"] == "up"

    def _agree(self, sentinel: Server) -> bool:
        with sentinel.client(password=self.sentinel_password) as client:
            state = client.sentinel_master("mymaster")
        return state["num-other-sentinels"] == 2 and state["num-slaves"] == 1

    @staticmethod
    def _wait(is_so) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if is_so():
                return
            time.sleep(0.05)
        raise AssertionError("the servers did not find each other")

    @property
    def url(self) -> str:
        """A URL of embedmill."""
        hosts = ",".join(f"127.0.0.1:{s.port}" for s in self.sentinels)
        return f"redis+sentinel://:{self.password}@{hosts}/mymaster/0?sentinel_password={self.sentinel_password}"


class TlsDoor:
    """A TLS port before a server's unix socket, with a certificate of its own authority made out to `name`."""

    def __init__(self, target: Path, folder: Path, *, name: str = "localhost", client_authority: bool = False) -> None:
        self._target = str(target)
        authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(self._context)
        self.cert_file, self.key_file = folder / "client.pem", folder / "client.key"
        own = authority.issue_cert("client")
        own.cert_chain_pems[0].write_to_path(str(self.cert_file))
        own.private_key_pem.write_to_path(str(self.key_file))
        if client_authority:
            authority.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Takes no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with suppress(OSError, ValueError), raw, self._context.wrap_socket(raw, server_side=True) as client:
            self._forward(client)

    def _forward(self, client: ssl.SSLSocket) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self._target)
            while True:
                ready = [client] if client.pending() else select.select([client, server], [], [])[0]
                for end in ready:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    (server if end is client else client).sendall(data)
