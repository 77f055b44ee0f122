"""docs/protocol.md: its code blocks by name, and the job that its example is about."""

import re

import numpy as np

from conftest import REPOSITORY
from embedmill.jobs import request
from embedmill.jobs.request import JobRequest, SubmitOptions
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.chunks import ChunkReply
from embedmill.protocol.dead_letter import DeadLetter, of_text
from embedmill.protocol.options import EmbedOptions
from embedmill.protocol.vectors import Dtype, to_bytes
from embedmill.protocol.version import PROTOCOL_VERSION
from embedmill.protocol.workers import WorkerInfo

PAGE = (REPOSITORY / "docs" / "protocol.md").read_text("utf-8")

#: The blocks of the page by language and name, as in "```hex chunk".
BLOCKS = dict(re.findall(r"^```([a-z]+(?: [a-z]+)?)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))

TEXTS = ["Selamat pagi", "good morning"]
OPTIONS = EmbedOptions(dimensions=2)
CARD = ModelCard(
    name="all-MiniLM-L6-v2",
    fingerprint="0f1e2d3c4b5a6978",
    dimension=384,
    max_tokens=256,
    chars_per_token=4.0,
    tokens_per_s=3500.0,
)
WORKER = WorkerInfo(
    worker_id="host.4711.9f8e7d6c",
    name="celery@host",
    pid=4711,
    host="host",
    state="ready",
    children=2,
    models={CARD.name: CARD.fingerprint},
    active=("1764000000000001-1",),
    protocol=PROTOCOL_VERSION,
)
REPLY = ChunkReply(
    indices=np.array([0, 1], dtype=np.uint32),
    vectors=to_bytes(np.array([[0.6, 0.8], [1, 0]], dtype=np.float32), Dtype.FLOAT32),
    dtype=Dtype.FLOAT32,
    dimension=2,
    token_counts=np.array([6, 4], dtype=np.uint32),
    truncated=np.array([False, False]),
    rejected=(),
    fingerprint=CARD.fingerprint,
    runtime="onnxruntime 1.32.0 avx512f",
    timings_ms={"queue": 1.5, "tokenization": 0.25, "inference": 7.0},
)


def job() -> JobRequest:
    """Return the example's job."""
    how = SubmitOptions(model=CARD.name, lane="bulk", job_id="example", ttl_s=86_400.0)
    return request.prepare(TEXTS, OPTIONS, how, model=CARD.name, card=CARD, children=2)


def letter() -> DeadLetter:
    """Return what a worker keeps of the example's second text, had it crashed its process three times."""
    return of_text(
        TEXTS[1],
        keep=False,
        job_id="example",
        chunk=0,
        index=1,
        model=CARD.name,
        lane="bulk",
        reason="crashed",
        detail="its process died 3 times while it was embedded alone, limit 3",
        attempts=3,
        worker=WORKER.worker_id,
        options=OPTIONS,
    )


def hex_of(name: str) -> bytes:
    """Return the bytes of a block of hexadecimal digits; what stands behind a # is a remark."""
    return bytes.fromhex(re.sub(r"#.*", "", BLOCKS[f"hex {name}"]))


def table(heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading, each a list of cells."""
    part = PAGE.partition(f"\n{heading}\n")[2].partition("\n#")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
