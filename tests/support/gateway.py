"""A gateway as a user starts it: `embedmill serve` in a process of its own, on ports that nobody listens on."""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from embedmill_worker.cli.local.die_with_parent import tethered
from embedmill_worker.exit_codes import SETTINGS
from support.servers import free_port

#: Seconds that any one thing here may take; generous, so that a busy machine fails no test.
PATIENCE_S = 120.0

#: Starts of a gateway whose port somebody else takes in the moment before it listens.
MAX_STARTS = 3


@dataclass
class Gateway:
    """A gateway's process and where it listens."""

    port: int
    grpc_port: int
    process: subprocess.Popen
    log_path: Path

    @property
    def url(self) -> str:
        """Its HTTP address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def openai_url(self) -> str:
        """Its HTTP address as OpenAI's clients want it."""
        return f"{self.url}/v1"

    @property
    def grpc_address(self) -> str:
        """Its gRPC address."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def health(self) -> int:
        """The status of /health; 0: nobody listens."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except (OSError, HTTPException):
            return 0
        finally:
            connection.close()

    def wait_health(self, *statuses: int) -> bool:
        """Waits for one of these statuses; gives whether it came before the process's end."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            if self.health in statuses:
                return True
            time.sleep(0.05)
        raise AssertionError(f"/health was not {statuses} after {PATIENCE_S} s:\n{self.log}")

    def stop(self) -> int:
        """Asks it to end; gives its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(PATIENCE_S)
            raise


def start(env: Mapping[str, str], folder: Path, *arguments: str, ready: bool = True, **settings: str) -> Gateway:
    """Starts a gateway for a mill's environment, which `settings` add to; waits until it serves if `ready`."""
    for number in range(MAX_STARTS):
        port, grpc_port = free_port(), free_port()
        log_path = folder / f"gateway-{port}.log"
        command = [sys.executable, "-m", "embedmill_worker.cli", "serve", *arguments]
        command += ["--port", str(port), "--grpc-port", str(grpc_port)]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                tethered(command), env={**env, **settings}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        gateway = Gateway(port=port, grpc_port=grpc_port, process=process, log_path=log_path)
        if gateway.wait_health(*((200,) if ready else (200, 503))):
            return gateway
        is_taken = process.returncode == SETTINGS and "cannot listen" in gateway.log
        assert is_taken and number + 1 < MAX_STARTS, f"it ended with {process.returncode}:\n{gateway.log}"
    raise AssertionError
