"""Several hosts, with real links between them that are cut, healed and slow: nothing is lost, and no bit changes.

Redis, two workers and a client each have a host of their own (``tests/support/hosts.py``). The test itself looks at
Redis through its unix socket, which no link can cut.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from conftest import REPOSITORY
from embedmill import EmbeddingClient
from embedmill.settings import ClientSettings
from embedmill.status import QueueStatus
from embedmill_worker.cli.local.die_with_parent import tethered
from embedmill_worker.cli.measure import corpus
from support.chaos import checks
from support.hosts import FAR, NARROW, Host, Lan, MissingError
from support.servers import plain_redis
from support.waiting import first_line, status_of, wait_until

from .conftest import Mill, WorkerHandle, close, new_mill

MODEL = "all-MiniLM-L6-v2"
PORT = 6379
CLIENT = REPOSITORY / "tests" / "support" / "apps" / "far_client.py"

#: Texts of a job: some seconds of one child in fp32, in twenty chunks and more.
TEXTS = corpus.mixed(240, seed=19)

#: Seconds of an outage that outlast a client's five seconds of patience with an unreachable Redis.
OUTAGE_S = 8.0


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    try:
        made = Lan()
    except MissingError as error:
        pytest.skip(f"network namespaces cannot be made: {error}")
    with made:
        yield made


@dataclass
class Client:
    """The far client's program, which runs until it has its vectors."""

    process: subprocess.Popen
    #: Of its job, if it asks the queue.
    job_id: str
    vectors: Path
    log: Path

    def result(self) -> np.ndarray:
        """Wait for its vectors."""
        wait_until(lambda: self.process.poll() is not None, "the client has no vectors", limit_s=300)
        assert self.process.returncode == 0, self.log.read_text()
        return np.load(self.vectors)


@dataclass
class Far:
    """The mill and where its parts stand."""

    mill: Mill
    #: Where Redis is, from each host.
    url: str
    socket_url: str
    redis_host: Host
    client_host: Host
    hosts: list[Host]
    workers: list[WorkerHandle]
    folder: Path
    n_clients: int = 0

    def command(self, host: Host, name: str, *command: str) -> tuple[subprocess.Popen, Path]:
        """Start a program of ours in a host; it writes a log."""
        log = self.folder / f"{name}.log"
        env = {**self.mill.env, "EMBEDMILL_REDIS_URL": self.url}
        with log.open("wb") as file:
            within = host.command(tethered([sys.executable, *command]))
            return subprocess.Popen(within, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file), log

    def ask(self, url: str = "") -> Client:
        """Start a client on its host; ``url`` is that of a gateway, if it asks one."""
        self.n_clients += 1
        job_id = f"far-{self.n_clients}"
        source, target = self.folder / "texts.json", self.folder / f"{job_id}.npy"
        source.write_text(json.dumps(TEXTS))
        command = (str(CLIENT), url or self.url, self.mill.namespace, job_id, str(source), str(target))
        process, log = self.command(self.client_host, job_id, *command)
        return Client(process, job_id, target, log)

    def status(self) -> QueueStatus:
        """What Redis says now."""
        return status_of(ClientSettings(redis_url=self.socket_url, namespace=self.mill.namespace))

    def is_ready(self, worker: WorkerHandle) -> bool:
        """Whether Redis lists a worker as one that takes work."""
        return any(w.is_ready and w.pid == worker.pid for w in self.status().workers)

    def wait_ready(self) -> None:
        """Wait until every worker takes work."""
        for worker in self.workers:
            wait_until(lambda w=worker: self.is_ready(w), f"{worker.pid} is not ready: {worker.log[-3000:]}")

    def wait_midway(self, n_texts: int = len(TEXTS)) -> None:
        """Wait until some of a job is done, and some is not."""
        wait_until(lambda: 0 < sum(lane.texts for lane in self.status().lanes) < n_texts, "no job is midway")

    def heal(self) -> None:
        """Undo what links have suffered, and wait until all is as before."""
        for host in (self.redis_host, self.client_host, *self.hosts):
            host.heal()
        self.wait_ready()

    def leftovers(self) -> list[str]:
        """What is left in Redis once the clients' jobs are deleted."""
        with EmbeddingClient(self.socket_url, MODEL, namespace=self.mill.namespace) as client:
            for number in range(self.n_clients):
                client.job(f"far-{number + 1}").delete()
        with plain_redis(self.socket_url) as server:
            return checks.leftovers(server, self.mill.namespace, MODEL)


@pytest.fixture(scope="module")
def shared(lan, valkey_binary, data_dir) -> Iterator[Far]:
    """Redis on one host, a worker with one child on two others, and a host for a client."""
    with tempfile.TemporaryDirectory(prefix="embedmill-") as name:
        folder = Path(name)
        redis_host, client_host, *hosts = (lan.add() for _ in range(4))
        socket = folder / "valkey.sock"
        options = ["--bind", redis_host.address, "--port", str(PORT), "--unixsocket", str(socket)]
        options += ["--protected-mode", "no", "--save", "", "--maxmemory-policy", "noeviction", "--dir", name]
        with (folder / "valkey.log").open("wb") as log:
            server = subprocess.Popen(
                redis_host.command(tethered([str(valkey_binary), *options])), stdout=log, stderr=log
            )
        wait_until(socket.exists, (folder / "valkey.log").read_text())
        mill = new_mill(f"redis://{redis_host.address}:{PORT}/0", data_dir, folder)
        try:
            workers = [mill.start_worker(within=host.command, ready=False, EMBEDMILL_CONCURRENCY="1") for host in hosts]
            yield Far(
                mill=mill,
                url=mill.redis_url,
                socket_url=f"unix://{socket}?db=0",
                redis_host=redis_host,
                client_host=client_host,
                hosts=hosts,
                workers=workers,
                folder=folder,
            )
        finally:
            close(mill)
            server.kill()
            server.wait(60)


@pytest.fixture
def far(shared) -> Iterator[Far]:
    """The mill, whole before each test and after it."""
    shared.heal()
    yield shared
    shared.heal()
    assert shared.leftovers() == []
    assert checks.unexpected_ends(shared.mill, set()) == []


@pytest.fixture(scope="module")
def want(shared) -> np.ndarray:
    """The vectors of a run that nothing disturbs."""
    shared.wait_ready()
    vectors = shared.ask().result()
    assert np.isfinite(vectors).all()
    assert shared.leftovers() == []
    return vectors


def same_bits(found: np.ndarray, want: np.ndarray) -> bool:
    return found.shape == want.shape and found.tobytes() == want.tobytes()


@pytest.mark.deep
@pytest.mark.parametrize("cut", [Host.unplug, Host.cut, Host.deafen], ids=lambda cut: cut.__name__)
def test_a_host_that_is_cut_off_in_the_middle_of_a_chunk_costs_nothing_and_works_again_once_it_is_back(want, far, cut):
    job = far.ask()
    far.wait_midway()
    cut(far.hosts[0])
    assert same_bits(job.result(), want)
    assert far.leftovers() == []

    wait_until(lambda: not far.is_ready(far.workers[0]), "a worker that is cut off is still said to be ready")
    far.heal()
    far.hosts[1].cut()
    wait_until(lambda: not far.is_ready(far.workers[1]))
    assert same_bits(far.ask().result(), want)  # by the first alone


@pytest.mark.deep
def test_the_late_commit_of_a_host_that_was_suspended_changes_nothing(want, far):
    far.hosts[1].cut()
    wait_until(lambda: not far.is_ready(far.workers[1]))
    late = far.workers[0]
    job = far.ask()
    far.wait_midway()
    wait_until(lambda: is_computing(late.children[0]), "the child is never seen in the middle of a chunk")
    frozen = [late.pid, *late.children]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert job.process.poll() is None  # so the chunk that is frozen is one of its
        far.hosts[0].cut()
        far.hosts[1].heal()
        assert same_bits(job.result(), want)
        before = stored(far, job.job_id)
        assert before
        far.hosts[1].cut()
        far.hosts[0].heal()
    finally:
        for pid in frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    wait_until(lambda: far.is_ready(late), late.log[-3000:])
    wait_until(lambda: not far.is_ready(far.workers[1]))
    # The one child that is left takes no other chunk before it has done with the one it had.
    assert same_bits(far.ask().result(), want)
    assert stored(far, job.job_id) == before


def is_computing(pid: int) -> bool:
    """Whether a process does not wait for anything for as long as only a chunk takes."""
    child = psutil.Process(pid)
    return all(child.status() == psutil.STATUS_RUNNING for _ in range(30))


def stored(far: Far, job_id: str) -> dict[bytes, bytes | None]:
    """All that Redis holds of a job, but how long it lives."""
    with plain_redis(far.socket_url) as server:
        keys = sorted(server.scan_iter(f"{far.mill.namespace}*{job_id}*", count=1000))
        return {key: server.dump(key) for key in keys}


@pytest.mark.deep
@pytest.mark.parametrize("how", [NARROW, FAR])
def test_slow_links_that_lose_packets_lose_no_work(want, far, how):
    try:
        for host in (far.client_host, *far.hosts):
            host.shape(how)
    except MissingError as error:
        pytest.skip(str(error))
    job = far.ask()
    assert same_bits(job.result(), want)


@pytest.mark.deep
def test_a_client_that_is_cut_off_from_redis_has_its_vectors_once_it_is_back(want, far):
    job = far.ask()
    far.wait_midway()
    far.client_host.cut()
    time.sleep(OUTAGE_S)
    assert job.process.poll() is None
    far.client_host.heal()
    assert same_bits(job.result(), want)


@pytest.mark.deep
def test_redis_that_is_cut_off_from_everybody_is_found_again_by_all(want, far):
    job = far.ask()
    far.wait_midway()
    far.redis_host.cut()
    time.sleep(OUTAGE_S)
    far.redis_host.heal()
    assert same_bits(job.result(), want)


@pytest.mark.deep
def test_a_gateway_that_is_cut_off_from_redis_answers_with_503_and_serves_again_once_it_is_back(want, far):
    port = 8080  # of a host of its own
    serve = ("-m", "embedmill_worker.cli", "serve", "--port", str(port), "--grpc-port", "0")
    gateway, log = far.command(far.client_host, "gateway", *serve)
    try:
        job = far.ask(f"http://127.0.0.1:{port}")
        far.wait_midway(len(TEXTS) + 1)
        far.client_host.cut()
        wait_until(lambda: "again after 503" in job.log.read_text() or job.process.poll() is not None)
        far.client_host.heal()
        assert same_bits(job.result(), want)
        assert gateway.poll() is None, log.read_text()
        assert "again after 503" in job.log.read_text()
    finally:
        gateway.kill()
        gateway.wait(60)


#: Makes hosts, says which namespaces they are, and waits to be killed.
VICTIM = """
    import os, subprocess, sys, time
    from embedmill_worker.cli.local.die_with_parent import tethered
    from support.hosts import Lan
    lan = Lan()
    hosts = [lan.add(), lan.add()]
    asleep = subprocess.Popen(hosts[0].command(tethered(["/bin/sleep", "600"])))
    time.sleep(0.2)
    print(*(os.readlink(f"/proc/{host.pid}/ns/net") for host in hosts), flush=True)
    asleep.wait()
"""


def test_hosts_go_with_the_process_that_made_them_however_it_ends_and_touch_nothing_of_the_machine(lan):
    before = interfaces()
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")}
    command = [sys.executable, "-c", textwrap.dedent(VICTIM)]
    victim = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    try:
        made = set(first_line(victim).split())
        assert len(made) == 2
        assert made <= namespaces()
        assert interfaces() == before
    finally:
        victim.kill()
        victim.communicate()
    wait_until(lambda: not made & namespaces(), "namespaces are left")
    assert interfaces() == before


def interfaces() -> list[tuple[str, list]]:
    """The machine's own network interfaces and their addresses."""
    return sorted((name, addresses) for name, addresses in psutil.net_if_addrs().items())


def namespaces() -> set[str]:
    """Network namespaces that some process is in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with suppress(OSError):
            found.add(str(link.readlink()))
    return found
