"""A fleet of 1 to 1,000 children on one Redis: simulated by what each step costs, and run for real as far as it fits.

    python benchmarks/run.py fleet

The engines of the real runs sleep (``fleet_app.py``); all else is the product's. The server has a core to itself, all
workers and clients the others. Costs are taken from outside: CPU time as the kernel counts it, bytes as the server
counts them, chunks as ``embedmill status`` shows them. Not among the questions that run by default: it wants a quiet
machine of two cores or more, 3 GB of memory, three minutes, and control groups of version 1.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import curves
import fleet_model
import psutil
import redis
from context import HERE, Run, say
from cpu import cpu_s, own_s
from figures import Figure
from fleet_model import Fleet, Outcome, Step

from embedmill import EmbeddingClient
from embedmill.client import Job
from embedmill.errors import EmbedError
from embedmill.jobs.chunking import bulk_chunk_s
from embedmill.limits import CHUNK_TARGET_S
from embedmill.settings import ClientSettings
from embedmill.status import read_status
from embedmill_worker.cli.local.die_with_parent import tethered
from embedmill_worker.cli.local.server import find_binary
from embedmill_worker.settings import DEFAULT_MODEL

#: A text of 13 tokens, by its length.
TEXT = "embeddings of a fleet that sleeps, text number {:07d}"
#: Tokens that a client reckons for it, and what a core of MiniLM in fp32 does in a second, by its card.
TOKENS, SPEED = 15.4, 3_400.0
#: Texts of the chunks whose costs are measured: those of 0.25 and of 4 s.
SIZES = (55, 880)
#: Children and workers of the runs that measure costs, seconds that each sleeps for a chunk, and the share of a core
#: that the server has there: it is always busy, as with a large fleet. With little to do it takes a third more a chunk,
#: as it is woken for each request.
FEW, FEW_WORKERS, FAST_S, SHARE = 24, 2, 0.15, 0.05
#: Seconds that are measured, and that are left for everything to get going.
WINDOW_S, SETTLING_S = 6.0, 2.0
#: Texts of a job, so that its chunks are full but for the last ones, and jobs that wait.
JOB_TEXTS, JOBS = 60_000, 5
#: Chunks that are there at least when costs are measured.
MEASURED_CHUNKS = 600
#: Real runs: children, workers, and seconds of sleep a text. One child alone shows how long the hand-over between two
#: chunks takes here, and does many, so that it is known to the millisecond.
ALONE = (1, 1, TOKENS / 17_000)
REAL = ((10, 1, TOKENS / SPEED), (30, 2, TOKENS / SPEED), (100, 4, TOKENS / SPEED))
#: A run whose server has a small share of its core, as if each request took longer: so that it is what bends.
TIGHT, TIGHT_SHARE = (100, 4, TOKENS / SPEED), 0.04
#: Chunks of each child in a real run that are counted.
CYCLES = 5
CONTROLLER = Path("/sys/fs/cgroup/cpu")
QUOTA_US = 1_000
#: Seconds that anything may take.
PATIENCE_S = 300.0
MEGABYTE = 1 << 20

#: Of the simulation.
CHILDREN = (1, 2, 5, 10, 20, 50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 700, 800, 1_000)
CHILDREN_A_WORKER = 16
TRIP_S = 0.0002
NETWORKS = {"1 Gbit/s": 1e9, "10 Gbit/s": 1e10}
DTYPES = ("fp32", "fp16")
#: How long chunks are: as clients cut them for a fleet with much to do, and as for two children.
LENGTHS: dict[str, Callable[[int], float]] = {
    "growing chunks": bulk_chunk_s,
    f"chunks of {CHUNK_TARGET_S} s": lambda children: CHUNK_TARGET_S,
}
#: Share of its children's speed below which a fleet is said to bend.
BENDS = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What something took, of everybody."""

    chunks: float = 0.0
    texts: float = 0.0
    seconds: float = 0.0
    server_s: float = 0.0
    in_bytes: float = 0.0
    out_bytes: float = 0.0
    main_s: float = 0.0
    children_s: float = 0.0
    client_s: float = 0.0

    def __sub__(self, other: Cost) -> Cost:
        mine, theirs = asdict(self), asdict(other)
        return Cost(**{name: mine[name] - theirs[name] for name in mine})

    def each(self, count: float) -> Cost:
        """Return it divided by a count, such as that of its chunks."""
        return Cost(**{name: value / count for name, value in asdict(self).items()})

    @property
    def step(self) -> Step:
        return Step(server_s=self.server_s, in_bytes=self.in_bytes, out_bytes=self.out_bytes)


class Mill:
    """A server on a core of its own, and workers whose engines sleep."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        cores = sorted(os.sched_getaffinity(0))
        self.server_core, self.other_cores = {cores[0]}, set(cores[1:])
        stack.callback(os.sched_setaffinity, 0, set(cores))
        os.sched_setaffinity(0, self.other_cores)  # of this process and of all that it starts from now on
        self.port = _free_port()
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--maxmemory", str(4096 * MEGABYTE)]
        options += ["--maxmemory-policy", "noeviction", "--dir", str(folder)]
        self.server = self._start([str(find_binary()), *options], "server")
        os.sched_setaffinity(self.server.pid, self.server_core)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.settings = ClientSettings(redis_url=self.url, namespace="fleet", model=DEFAULT_MODEL)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._link = redis.Redis.from_url(self.url, socket_timeout=10)
        self._wait(self._answers, "the server does not answer")
        self.client = stack.enter_context(EmbeddingClient(self.url, DEFAULT_MODEL, namespace="fleet"))

    def tighten(self, share: float) -> None:
        """Limit the server to this share of a core from now on.

        Raises:
            OSError: there is no controller of CPU time of version 1, or no right to use it.
        """
        (path,) = (line.split(":", 2)[2] for line in _own_groups() if line.split(":", 2)[1] == "cpu")
        group = CONTROLLER / path.lstrip("/") / f"embedmill-{os.getpid()}"
        group.mkdir()
        self._stack.callback(_remove, group, self.server)
        (group / "cpu.cfs_period_us").write_text(str(round(QUOTA_US / share)))
        (group / "cpu.cfs_quota_us").write_text(str(QUOTA_US))
        (group / "cgroup.procs").write_text(str(self.server.pid))

    def start_workers(self, children: int, workers: int, *, text_s: float, tokens_per_s: float) -> None:
        """Start so many workers, which share the children among them, and wait until all take work."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EMBEDMILL_")},
            "EMBEDMILL_REDIS_URL": self.url,
            "EMBEDMILL_NAMESPACE": "fleet",
            "EMBEDMILL_DATA_DIR": str(self._folder),
            "FLEET_TEXT_S": repr(text_s),
            "FLEET_TOKENS_PER_S": repr(tokens_per_s),
        }
        for n in range(workers):
            share = children // workers + (n < children % workers)
            own = {**environment, "EMBEDMILL_CONCURRENCY": str(share)}
            command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "fleet_app", "worker"]
            command += ["--loglevel", "WARNING", "--hostname", f"fleet{n}@localhost"]
            self.workers.append(self._start(command, f"worker-{n}", env=own, cwd=HERE))
        self._wait(lambda: self._ready() == workers, f"not all workers are ready: {self._words()}")
        self._wait(lambda: len(self._children()) >= children, "not all children are up")

    def end_workers(self) -> None:
        """Kill the workers."""
        for worker in self.workers:
            _end(worker)
        self.workers.clear()

    def _ready(self) -> int:
        return sum(worker.is_ready for worker in read_status(self.settings).workers)

    def _children(self) -> list[int]:
        return [child.pid for worker in self.workers for child in psutil.Process(worker.pid).children()]

    def submit(self, n_texts: int, n_jobs: int = JOBS) -> list[Job]:
        """Submit some jobs."""
        texts = texts_of(n_texts)
        return [self.client.submit(texts, job_id=f"fleet-{n}") for n in range(n_jobs)]

    def memory_mb(self) -> float:
        """Return the proportional set size of a child, on average."""
        children = self._children()
        return sum(psutil.Process(pid).memory_full_info().pss for pid in children) / len(children) / 1e6

    def now(self) -> Cost:
        """Return what everybody has taken so far; of chunks and texts, what is not yet done, with a minus."""
        lanes = read_status(self.settings).lanes
        counts = {**self._link.info("stats"), **self._link.info("cpu")}
        return Cost(
            chunks=-sum(lane.chunks for lane in lanes),
            texts=-sum(lane.texts for lane in lanes),
            seconds=time.perf_counter(),
            server_s=counts["used_cpu_user"] + counts["used_cpu_sys"],
            in_bytes=counts["total_net_input_bytes"],
            out_bytes=counts["total_net_output_bytes"],
            main_s=sum(cpu_s(worker.pid) for worker in self.workers),
            children_s=sum(map(cpu_s, self._children())),
            client_s=own_s(),
        )

    def during(self, seconds: float) -> Cost:
        """Return what so many seconds take."""
        before = self.now()
        time.sleep(seconds)
        return self.now() - before

    def _start(self, command: Sequence[str], name: str, **options: object) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                tethered(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **options,  # type: ignore[call-overload]
            )
        self._stack.callback(_end, process)
        return process

    def _answers(self) -> bool:
        with suppress(redis.RedisError):
            return bool(self._link.ping())
        return False

    def _words(self) -> str:
        return " | ".join(path.read_text(errors="replace")[-500:] for path in self._folder.glob("worker-*.log"))

    def _wait(self, is_so: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_so():
            if time.monotonic() > deadline_s:
                raise TimeoutError(what)
            time.sleep(0.1)


@contextmanager
def open_fleet() -> Iterator[Mill]:
    """Start a server without workers, which lives as long as the block."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as name, ExitStack() as stack:
        yield Mill(Path(name), stack)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _own_groups() -> list[str]:
    return Path("/proc/self/cgroup").read_text().splitlines()


def _remove(group: Path, member: subprocess.Popen[bytes]) -> None:
    _end(member)
    group.rmdir()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait(PATIENCE_S)


def texts_of(count: int) -> list[str]:
    return [TEXT.format(n) for n in range(count)]


@contextmanager
def reading(jobs: Sequence[Job]) -> Iterator[None]:
    """Read the vectors of jobs as they come, until the block ends."""
    threads = [threading.Thread(target=_read, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    yield


def _read(job: Job) -> None:
    with suppress(EmbedError):  # the fleet ends before the job does
        for _ in job.iter_results():
            pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What a chunk costs in each step, and what a worker costs that has nothing to do, in a second."""

    submit: Cost
    work: Cost
    read: Cost
    delete: Cost
    idle: Cost
    texts: float

    def at(self, texts: float, other: Steps) -> Steps:
        """Return the costs of chunks of another size, on the line through both."""
        share = (texts - self.texts) / (other.texts - self.texts)
        found = {}
        for name in ("submit", "work", "read", "delete"):
            mine, theirs = asdict(getattr(self, name)), asdict(getattr(other, name))
            found[name] = Cost(**{key: max(0.0, mine[key] + share * (theirs[key] - mine[key])) for key in mine})
        return replace(self, texts=texts, **found)


def measure_steps(chunk_texts: int) -> Steps:
    """Run a few children, and tell the steps of their chunks apart by what is done when."""
    with open_fleet() as mill:
        tokens_per_s = chunk_texts * TOKENS / bulk_chunk_s(FEW)  # so that a client cuts chunks of this size
        mill.start_workers(FEW, FEW_WORKERS, text_s=FAST_S / chunk_texts, tokens_per_s=tokens_per_s)
        time.sleep(SETTLING_S)
        idle = mill.during(WINDOW_S / 2)
        before = mill.now()
        jobs = mill.submit(JOB_TEXTS, max(JOBS, math.ceil(chunk_texts * MEASURED_CHUNKS / JOB_TEXTS)))
        submit = mill.now() - before
        n_chunks = sum(job.status().chunks for job in jobs)
        mill.tighten(SHARE)
        time.sleep(SETTLING_S)
        work = mill.during(WINDOW_S)
        mill.end_workers()  # so that what is done is read with nothing beside it
        n_done = sum(job.status().chunks_done for job in jobs)
        with reading(jobs):
            read = mill.during(WINDOW_S)
            before = mill.now()
            for job in jobs:
                job.delete()
            time.sleep(SETTLING_S)  # memory is freed afterwards, in a thread of the server
            delete = mill.now() - before
        return Steps(
            submit=submit.each(n_chunks),
            work=work.each(work.chunks),
            read=read.each(n_done),
            delete=delete.each(n_chunks),
            idle=idle.each(idle.seconds * FEW_WORKERS),
            texts=work.texts / work.chunks,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RealRun:
    """A fleet that was run."""

    children: int
    workers: int
    #: Seconds of sleep for a chunk of the size that there was.
    embed_s: float
    chunk_texts: float
    chunks_per_s: float
    #: Share of its time that the server's core was busy.
    server_share: float
    child_mb: float

    @property
    def cycle_s(self) -> float:
        """Seconds between two chunks of a child."""
        return self.children / self.chunks_per_s


def run_for_real(children: int, workers: int, text_s: float, *, share: float = 1.0) -> RealRun:
    """Run a fleet under load, with a reader, and with a share of a core for the server."""
    with open_fleet() as mill:
        if share < 1:
            mill.tighten(share)
        mill.start_workers(children, workers, text_s=text_s, tokens_per_s=SPEED)
        chunk_s = text_s * bulk_chunk_s(children) * SPEED / TOKENS
        window_s = max(WINDOW_S, CYCLES * chunk_s)
        n_texts = children * (window_s + chunk_s + 3 * SETTLING_S) / text_s
        with reading(mill.submit(JOB_TEXTS, max(JOBS, math.ceil(n_texts / JOB_TEXTS)))):
            time.sleep(1.5 * SETTLING_S + chunk_s)
            took = mill.during(window_s)
            chunk_texts = took.texts / took.chunks
            found = RealRun(
                children=children,
                workers=workers,
                embed_s=text_s * chunk_texts,
                chunk_texts=chunk_texts,
                chunks_per_s=took.chunks / took.seconds,
                server_share=took.server_s / took.seconds,
                child_mb=mill.memory_mb(),
            )
            say(f"  fleet, {children} children: a chunk of {found.embed_s:.3f} s each {found.cycle_s:.3f} s")
            return found


def simulated(real: RealRun, alone: RealRun, steps: tuple[Steps, Steps], *, cores: int, share: float = 1.0) -> float:
    """Return the chunks a second that the simulation says of a real run, whose hand-overs take what one child's did."""
    cost = steps[0].at(real.chunk_texts, steps[1])
    shared_s = (cost.work.main_s + cost.work.children_s + cost.work.client_s + cost.read.client_s) / cores
    known_s = alone.embed_s + shared_s + cost.work.server_s
    fleet = Fleet(
        children=real.children,
        workers=real.workers,
        embed_s=real.embed_s,
        overhead_s=max(0.0, alone.cycle_s - known_s),
        shared_s=shared_s,
        work=replace(cost.work.step, server_s=cost.work.server_s / share),
        client=replace(cost.read.step, server_s=cost.read.server_s / share),
        network_bit_s=math.inf,
        trip_s=0.0,
    )
    return fleet_model.simulate(fleet).chunks_per_s


def of(both: tuple[Steps, Steps], children: int, *, network_bit_s: float, dtype: str, embed_s: float) -> Fleet:
    """Return a fleet whose hosts have a core for each child."""
    steps = both[0].at(embed_s * SPEED / TOKENS, both[1])
    client = steps.submit.step + steps.read.step + steps.delete.step
    work = steps.work.step
    if dtype == "fp16":
        # Of what a chunk takes in bytes; what a byte costs the server is not taken off.
        work = replace(work, in_bytes=work.in_bytes / 2)
        client = replace(client, out_bytes=client.out_bytes / 2)
    return Fleet(
        children=children,
        workers=-(-children // CHILDREN_A_WORKER),
        embed_s=embed_s,
        overhead_s=steps.work.main_s + steps.work.children_s,
        work=work,
        client=client,
        network_bit_s=network_bit_s,
        trip_s=TRIP_S,
        beat_s=steps.idle.server_s * fleet_model.BEAT_S,
    )


def ask(run: Run) -> list[Figure]:
    """Return costs by step, real runs beside their simulation, and what the simulation says of 1 to 1,000 children."""
    if run.cores < 2:
        run.skip("fleet", "two cores are needed, one for the server alone")
        return []
    if not os.access(CONTROLLER / "cpu.cfs_quota_us", os.W_OK):
        run.skip("fleet", f"{CONTROLLER}: control groups of version 1 and the right to make one are needed")
        return []
    steps = measure_steps(SIZES[0]), measure_steps(SIZES[1])
    figures = list(costs(steps))
    alone = run_for_real(*ALONE)
    for fleet in REAL:
        real = run_for_real(*fleet)
        figures += of_real(real, alone, simulated(real, alone, steps, cores=run.cores - 1))
    real = run_for_real(*TIGHT, share=TIGHT_SHARE)
    # Of the share that it got: the kernel gives less than is allowed when it stops and starts it each time.
    chunks_per_s = simulated(real, alone, steps, cores=run.cores - 1, share=real.server_share)
    figures += of_real(real, alone, chunks_per_s, which=f", {TIGHT_SHARE} of a core for Redis")
    outcomes = {
        (network, dtype, length): [
            fleet_model.simulate(of(steps, n, network_bit_s=bit_s, dtype=dtype, embed_s=chunk_s(n))) for n in CHILDREN
        ]
        for network, bit_s in NETWORKS.items()
        for dtype in DTYPES
        for length, chunk_s in LENGTHS.items()
    }
    for (network, dtype, length), found in outcomes.items():
        figures += of_simulation(f"{network}, {length}", dtype, found)
    if run.folder:
        lines = {
            f"{network}, {length}": [(n, o.efficiency) for n, o in zip(CHILDREN, found, strict=True)]
            for (network, dtype, length), found in outcomes.items()
            if dtype == "fp32"
        }
        (run.folder / "fleet.svg").write_text(curves.svg(lines, title="share of its children's speed", x="children"))
        (run.folder / "fleet.json").write_text(json.dumps([asdict(one) for one in steps], indent=2) + "\n")
    return figures


def costs(steps: Sequence[Steps]) -> Iterator[Figure]:
    """Yield what a chunk costs, by step and size."""
    for one in steps:
        size = f"chunk of {one.texts:.0f} texts"
        for name in ("submit", "work", "read", "delete"):
            cost: Cost = getattr(one, name)
            yield _figure(f"{size}: {name}, Redis's CPU", cost.server_s * 1e6, "µs")
            yield _figure(f"{size}: {name}, to Redis", cost.in_bytes / 1e3, "kB")
            yield _figure(f"{size}: {name}, from Redis", cost.out_bytes / 1e3, "kB")
        yield _figure(f"{size}: worker's main process, CPU", one.work.main_s * 1e6, "µs")
        yield _figure(f"{size}: child, CPU", one.work.children_s * 1e6, "µs")
        yield _figure(f"{size}: reader, CPU", one.read.client_s * 1e6, "µs")
    yield _figure("worker with nothing to do, Redis's CPU a second", steps[0].idle.server_s * 1e6, "µs")


def of_real(real: RealRun, alone: RealRun, chunks_per_s: float, *, which: str = "") -> Iterator[Figure]:
    title = f"{real.children} children{which}"
    cycle_alone_s = real.embed_s + alone.cycle_s - alone.embed_s
    yield _figure(f"{title} ÷ their sum", cycle_alone_s / real.cycle_s, "×")
    yield _figure(f"{title} ÷ their engines", real.embed_s / real.cycle_s, "×")
    yield _figure(f"{title} ÷ simulated", real.chunks_per_s / chunks_per_s, "×")
    yield _figure(f"{title}, Redis's core busy", 100 * real.server_share, "%")
    yield _figure(f"{title}, memory of a child", real.child_mb, "MB")


def of_simulation(title: str, dtype: str, outcomes: Sequence[Outcome]) -> Iterator[Figure]:
    last = outcomes[-1]
    yield _figure(f"{CHILDREN[-1]:,} children simulated ÷ their engines, {title}", last.efficiency, "×", dtype)
    bent = next(((n, o) for n, o in zip(CHILDREN, outcomes, strict=True) if o.efficiency < BENDS), None)
    if bent:
        yield _figure(f"bends first at {bent[1].tightest}, {title}", float(bent[0]), "children", dtype)


def _figure(name: str, value: float, unit: str, precision: str = "") -> Figure:
    return Figure(question="fleet", name=name, value=value, low=value, high=value, unit=unit, precision=precision)
