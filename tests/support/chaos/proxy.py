"""A TCP port before a server's unix socket, which can drop, delay or swallow what goes through it."""

import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

#: Bytes taken off a socket at once.
PIECE_BYTES = 1 << 16

#: Seconds after which a pump looks whether its connection was dropped.
LOOK_S = 0.05


class Proxy:
    """Forwards every connection by two threads of its own; the faults hit all of them at once."""

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        #: Seconds that each piece of data waits before it is forwarded.
        self.delay_s = 0.0
        #: While set, data is neither forwarded nor refused, as behind a dead link.
        self.swallows = threading.Event()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._stranded: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        """A URL that goes through the proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._pairs)

    def drop(self) -> int:
        """Cuts every connection, in the middle of whatever it carries; gives how many."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._close(pair)
        return len(pairs)

    def strand(self) -> int:
        """Stops what goes through the connections there are, and closes none: as a firewall that forgot them."""
        with self._lock:
            self._stranded |= self._pairs
            return len(self._stranded)

    def close(self) -> None:
        """Stops."""
        self._listener.close()
        self.swallows.clear()
        self.drop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._target)
            except OSError:  # the server is down: so is the port, to the client
                client.close()
                server.close()
                continue
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(pair, source, sink), daemon=True).start()

    def _pump(self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError, ValueError):  # closed by the other pump or by drop
            while source.fileno() >= 0:
                if self.swallows.is_set() or pair in self._stranded:
                    time.sleep(LOOK_S)
                    continue
                if not select.select([source], [], [], LOOK_S)[0]:
                    continue
                data = source.recv(PIECE_BYTES)
                if not data:
                    break
                if self.delay_s:
                    time.sleep(self.delay_s)
                sink.sendall(data)
        self._close(pair)

    def _close(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
            self._stranded.discard(pair)
        for end in pair:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
