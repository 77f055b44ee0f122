"""Hosts on one machine that share nothing but a network: each is a network namespace, with a cable to one bridge.

No namespace and no interface has a name on the machine: each lives as long as a process that reads a pipe of this one,
so all of it goes with this process, however that ends. Root is not needed where Linux lets users make user namespaces.
"""

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from support.waiting import first_line

#: Of RFC 2544, for tests of networks: it is routed nowhere, and here only the namespaces have it.
NETWORK, PREFIX_BITS = "198.18.0", 24

PROGRAMS = ("ip", "tc", "nsenter", "unshare")

#: Says that its namespace is there, and keeps it until its stdin ends.
HOLD = ("sh", "-c", "echo held; exec cat >/dev/null")

#: A link that the traffic of a job fills: what waits longer than 0.2 s is dropped, so it delays and loses.
NARROW = "tbf rate 2mbit burst 5kb latency 200ms"

#: A long and bad line.
FAR = "netem delay 60ms 20ms loss 2%"


class MissingError(Exception):
    """What this machine lacks or does not permit; the message says what to install or to allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host, and its cable to the bridge."""

    lan: "Lan"
    number: int
    pid: int

    @property
    def address(self) -> str:
        """Its address in the network."""
        return f"{NETWORK}.{self.number}"

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs in the host, as the process that starts it."""
        return [*_enter(self.pid), *command]

    def unplug(self) -> None:
        """Take the cable out: both ends lose their link."""
        self.lan.run("ip", "link", "set", self._port, "down")

    def cut(self) -> None:
        """Drop every packet from and to the host; its link stays up, and nothing says so."""
        self.shape("blackhole")

    def deafen(self) -> None:
        """Drop every packet to the host; what it sends still arrives."""
        self.lan.run("tc", "qdisc", "replace", "dev", self._port, "root", "blackhole")

    def shape(self, how: str) -> None:
        """Send what goes to the host and comes from it by a queueing discipline of ``tc``.

        Raises:
            MissingError: this kernel does not have it.
        """
        try:
            for run, device in ((self.lan.run, self._port), (self.run, "eth0")):
                run("tc", "qdisc", "replace", "dev", device, "root", *how.split())
        except MissingError as error:
            raise MissingError(f"{error}; a kernel with sch_{how.split()[0]} is needed") from None

    def heal(self) -> None:
        """Undo all of it."""
        for within, device in ((self.lan.command, self._port), (self.command, "eth0")):
            command = within(["tc", "qdisc", "del", "dev", device, "root"])
            subprocess.run(command, capture_output=True, check=False)  # there may be none
        self.lan.run("ip", "link", "set", self._port, "up")

    def run(self, *command: str) -> None:
        """Run a command in the host.

        Raises:
            MissingError: it failed.
        """
        _run(self.command(command))

    @property
    def _port(self) -> str:
        return f"port{self.number}"


class Lan:
    """A bridge in a namespace of its own, and the hosts on it.

    Raises:
        MissingError: this machine cannot have it.
    """

    def __init__(self) -> None:
        if missing := [name for name in PROGRAMS if not shutil.which(name)]:
            raise MissingError(f"{', '.join(missing)}: not found; install iproute2 and util-linux")
        self._held = ExitStack()
        self._hosts = 0
        try:
            self._pid = self._hold(["unshare", "--user", "--map-root-user", "--net"])
            self.run("ip", "link", "add", "bridge", "type", "bridge")
            self.run("ip", "link", "set", "bridge", "up")
        except MissingError:
            self.close()
            raise

    def __enter__(self) -> "Lan":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the namespaces; Linux removes each with its last process."""
        self._held.close()

    def add(self) -> Host:
        """Return a new host, with an address and a cable."""
        self._hosts += 1
        host = Host(lan=self, number=self._hosts, pid=self._hold([*_enter(self._pid), "unshare", "--net"]))
        port = f"port{host.number}"
        self.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        self.run("ip", "link", "set", port, "master", "bridge", "up")
        for command in (f"address add {host.address}/{PREFIX_BITS} dev eth0", "link set eth0 up", "link set lo up"):
            host.run("ip", *command.split())
        return host

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs beside the bridge."""
        return [*_enter(self._pid), *command]

    def run(self, *command: str) -> None:
        """Run a command beside the bridge.

        Raises:
            MissingError: it failed.
        """
        _run(self.command(command))

    def _hold(self, made_by: Sequence[str]) -> int:
        command = [*made_by, *HOLD]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._held.callback(_let_go, process)
        if first_line(process) != b"held\n":
            said = process.stderr.read().decode().strip()
            raise MissingError(f"{said}; run as root, or allow user namespaces (user.max_user_namespaces)")
        return process.pid


def _enter(pid: int) -> list[str]:
    return ["nsenter", "--target", str(pid), "--user", "--preserve-credentials", "--net"]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(f"{' '.join(command)}: {done.stderr.strip()}")


def _let_go(process: subprocess.Popen) -> None:
    for end in (process.stdin, process.stdout, process.stderr):
        end.close()
    process.wait(60)
