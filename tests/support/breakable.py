"""The embedded server as tests break it."""

import os
import signal

from embedmill_worker.cli.local.server import EmbeddedValkey


class BreakableValkey(EmbeddedValkey):
    """A server that can be killed, restarted over the same folder and socket, frozen, and thawed."""

    def kill(self) -> None:
        """Kill it as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()

    def restart(self, timeout_s: float = 10.0) -> None:
        """End it if it runs, and start it again."""
        self._end(timeout_s)
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume it."""
        os.kill(self.pid, signal.SIGCONT)
