"""A job's record on a real Valkey, worked on by hand or by a thread: no Celery, no model."""

import itertools
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from embedmill.jobs import reading, request, submission
from embedmill.jobs.submission import Admission
from embedmill.protocol import vectors
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.chunks import Chunk, ChunkReply, pack_reply, unpack_chunk
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.options import EmbedOptions, unpack_options
from embedmill.protocol.scripts import script, text_of
from embedmill.protocol.version import PROTOCOL_VERSION
from embedmill.protocol.workers import WorkerInfo
from embedmill.settings import ClientSettings
from embedmill.transport import flow
from embedmill.transport.sync import RedisTransport
from embedmill_worker.jobs import announcements, claims
from embedmill_worker.jobs.claims import Bell
from support.servers import plain_redis
from support.sink_contract import Book, Kind, an_index

MODEL = "paper"
DIMENSION = 8


def vector_of(text: str) -> np.ndarray:
    """What the paper model makes of a text: float32 (8,), made of its bytes alone."""
    row = np.frombuffer((text.encode() * 8 + b"paper---")[:8], dtype=np.uint8).astype(np.float32)
    return row / np.linalg.norm(row)


class Bench:
    """One namespace, and a worker's hands."""

    def __init__(self, redis_url: str, namespace: str) -> None:
        self.redis_url = redis_url
        self.namespace = namespace
        self.settings = ClientSettings(redis_url=redis_url, namespace=namespace)
        self.keys = Keyspace(namespace)
        self.link = RedisTransport(self.settings)
        self.redis = plain_redis(redis_url)

    def run(self, flow, timeout_s=10.0):
        """Drives a flow."""
        return self.link.run(flow, timeout_s=timeout_s)

    def ask(self, command):
        """Sends one command; gives its reply."""
        return self.run(_one(command))

    def close(self):
        """Closes the connections."""
        self.link.close()
        self.redis.close()

    def load_scripts(self, *names):
        """Loads scripts: a call of one that Redis lacks is answered after those that stand behind it."""
        for name in names:
            self.redis.script_load(text_of(script(name).sha))

    def card(self, tokens_per_s=1.0, model=MODEL, fingerprint="f"):
        """A model card; at 1 token a second a chunk holds 16 tokens, about a text of 56 characters."""
        return ModelCard(
            name=model,
            fingerprint=fingerprint,
            dimension=DIMENSION,
            max_tokens=64,
            chars_per_token=4.0,
            tokens_per_s=tokens_per_s,
        )

    def announce(self, *cards):
        """Publishes cards."""
        self.run(announcements.announce_cards(self.keys, cards))

    def prepare(self, texts, *, job_id="job", model=MODEL, lane="bulk", options=None, **how):
        """Makes a job of one text a chunk, if the texts are long."""
        given = {"children": how.pop("children", 1), "card": how.pop("card", None) or self.card(model=model)}
        told = request.SubmitOptions(**{"model": model, "lane": lane, "job_id": job_id, "ttl_s": 60.0} | how)
        return request.prepare(texts, options or EmbedOptions(), told, model=model, **given)

    def submit(self, texts, **how):
        """Stores a job."""
        prepared = self.prepare(texts, **how)
        self.run(submission.submit(self.keys, prepared, Admission()))
        return prepared

    def status(self, job_id="job"):
        """Reads a job's status."""
        return self.run(reading.read_record(self.keys, job_id)).status

    def doorbells(self, model=MODEL, lane="bulk"):
        """The tokens in a lane's queue, the next one first."""
        messages = self.redis.lrange(self.keys.queue(model, lane), 0, -1)
        return [bell_of(message, model, lane).token for message in reversed(messages)]

    def pop(self, model=MODEL, lane="bulk"):
        """Takes the next doorbell off a queue, as kombu does."""
        message = self.redis.rpop(self.keys.queue(model, lane))
        return message and bell_of(message, model, lane)

    def ring(self, model=MODEL, lane="bulk"):
        """A doorbell that nobody has rung."""
        return Bell(model=model, lane=lane, token=f"{next(NUMBERS)}-1")

    def take(self, worker_id="w", fingerprint="f", **lane):
        """Claims the next chunk of a lane, by a doorbell that nobody has rung."""
        return self.claim(self.ring(**lane), worker_id, fingerprint)

    def counts(self, model=MODEL, lane="bulk"):
        """A lane's counters of work that is not committed, and of chunks that nobody has claimed."""
        names = ("chunks", "texts", "tokens", "bytes", "open")
        return {
            n: int(v or 0) for n, v in zip(names, self.redis.hmget(self.keys.lane(model, lane), names), strict=True)
        }

    def live(self, worker_id="w", active=(), fingerprint="f", children=1, models=(MODEL,)):
        """Beats for a worker."""
        info = WorkerInfo(
            worker_id=worker_id,
            name=worker_id,
            pid=1,
            host="h",
            state="ready",
            children=children,
            models=dict.fromkeys(models, fingerprint),
            active=tuple(active),
            protocol=PROTOCOL_VERSION,
        )
        self.run(announcements.beat(self.keys, info))

    def die(self, worker_id="w"):
        """Expires a worker's liveness key at once."""
        self.redis.delete(self.keys.worker(worker_id))

    def claim(self, bell, worker_id="w", fingerprint="f", policy=None):
        """Claims the next chunk of the lane that has rung."""
        return self.run(claims.claim(self.keys, claimant(bell, worker_id, fingerprint, policy)))

    def commit_and_claim(self, claim, worker_id="w", *, policy=None, yields_to=()):
        """Commits made-up vectors and claims the next chunk by the same doorbell; gives both outcomes."""
        bell = Bell(model=claim.ref.model, lane=claim.ref.lane, token=claim.ref.token)
        reply = pack_reply(embed(claim, "f"))
        following = claimant(bell, worker_id, "f", policy, yields_to)
        return self.run(claims.commit_and_claim(self.keys, claim.ref, reply, (), following))

    def commit(self, claim, fingerprint="f"):
        """Commits made-up vectors; gives whether they were wanted."""
        return self.run(claims.commit(self.keys, claim.ref, pack_reply(embed(claim, fingerprint))))

    def give_back(self, token, why="crashed"):
        """Returns the chunk of a token to its lane; its name, None if it holds none."""
        return self.run(claims.give_back_token(self.keys, token, why))

    def work(self, **lane):
        """Does what the next doorbell asks for; gives its claim, None if there is no doorbell."""
        bell = self.pop(**lane)
        if bell is None:
            return None
        claim = self.claim(bell)
        if isinstance(claim, claims.Work):
            self.commit(claim)
        return claim

    def key_names(self, job_id="job"):
        """The suffixes of a job's keys: «» is its record."""
        prefix = self.keys.job(job_id)
        return {key.decode().removeprefix(prefix).partition(":")[2] for key in self.redis.keys(f"{prefix}*")}

    @contextmanager
    def worker(self, models=(MODEL,), fingerprint="f", pause_s=0.0) -> Iterator[None]:
        """A thread that serves both lanes of the models until the block ends."""
        stopped = threading.Event()

        def serve() -> None:
            own = Bench(self.redis_url, self.namespace)
            try:
                while not stopped.is_set():
                    done = [own.work(model=m, lane=lane) for m in models for lane in ("interactive", "bulk")]
                    stopped.wait(pause_s if any(done) else 0.002)
            finally:
                own.close()

        self.announce(*(self.card(4_000.0, model=m, fingerprint=fingerprint) for m in models))
        self.live(models=models, fingerprint=fingerprint)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join(30)


def _one(command):
    (reply,) = yield flow.RoundTrip([command])
    return reply


def claimant(bell, worker_id="w", fingerprint="f", policy=None, yields_to=()) -> claims.Claimant:
    """Who claims by a doorbell."""
    return claims.Claimant(
        bell=bell,
        worker_id=worker_id,
        fingerprint=fingerprint,
        policy=policy or claims.Policy(),
        yields_to=tuple(yields_to),
    )


#: Doorbells that nobody has rung.
NUMBERS = itertools.count(1)


def bell_of(message, model=MODEL, lane="bulk") -> Bell:
    """Reads a doorbell."""
    token = message.split(b'"id": "', 1)[1].split(b'"', 1)[0].decode()
    return Bell(model=model, lane=lane, token=token)


def embed(claim, fingerprint="f") -> ChunkReply:
    """What the paper model replies to a claim."""
    chunk: Chunk = unpack_chunk(claim.texts)
    options = unpack_options(claim.options)
    rows = np.array([vector_of(text) for text in chunk.texts], dtype=np.float32).reshape(-1, DIMENSION)
    rows = vectors.cut(rows, options.dimensions)
    return ChunkReply(
        indices=chunk.indices,
        vectors=vectors.to_bytes(rows, options.dtype),
        dtype=options.dtype,
        dimension=rows.shape[1],
        token_counts=np.array([len(text) for text in chunk.texts], dtype=np.uint32),
        truncated=np.zeros(len(chunk.texts), dtype=np.bool_),
        rejected=(),
        fingerprint=fingerprint,
        runtime="paper 1",
        timings_ms={"queue": 1.0, "tokenization": 1.0, "inference": 1.0},
    )


@pytest.fixture
def bench(redis_url, namespace) -> Iterator[Bench]:
    """A namespace of its own on the shared server."""
    made = Bench(redis_url, namespace)
    yield made
    made.close()


@pytest.fixture
def make_bench() -> type[Bench]:
    """For other servers and namespaces."""
    return Bench


@pytest.fixture
def expected():
    """Returns the vectors that the paper model makes of texts."""
    return lambda texts: np.array([vector_of(text) for text in texts], dtype=np.float32).reshape(-1, DIMENSION)


@pytest.fixture
def paper_reply():
    """Returns what the paper model replies to a claim."""
    return embed


@pytest.fixture
def make(kind: Kind, tmp_path: Path) -> Iterator[Callable[..., Book]]:
    """Opens books on the sink of this kind; all are closed at the end."""
    made: list[Book] = []

    def open_book(index=None, sink=None) -> Book:
        made.append(Book(kind.name(tmp_path), tmp_path, index or an_index(), sink))
        return made[-1]

    yield open_book
    for book in made:
        book.close()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 2 MiB; only root may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
