"""The readers, each as a function of bytes that raises EmbedError or nothing; and seeds: bytes as they are meant to be.

A new reader is a function here, decorated with ``@decoder(*seeds)``; everything else finds it by itself.
"""

import gzip
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np

from embedmill import canvas, status
from embedmill.errors import EmbedError
from embedmill.jobs import assembly, dead_letters, discovery, reading
from embedmill.jobs.assembly import Assembly
from embedmill.limits import MAX_MESSAGE_BYTES
from embedmill.protocol import dead_letter, records
from embedmill.protocol.cards import ModelCard
from embedmill.protocol.chunks import (
    Chunk,
    ChunkReply,
    pack_chunk,
    pack_rejected,
    pack_reply,
    read_rejected,
    unpack_chunk,
    unpack_reply,
)
from embedmill.protocol.keys import Keyspace
from embedmill.protocol.options import EmbedOptions, pack_options, unpack_options
from embedmill.protocol.vectors import Dtype, from_bytes
from embedmill.protocol.workers import WorkerInfo
from embedmill.reindexing import Index
from embedmill.reindexing.sources.base import Reading
from embedmill.reindexing.sources.files import FileSource
from embedmill.reindexing.sources.formats.csv_file import Csv
from embedmill.reindexing.sources.formats.jsonl import Jsonl, JsonValues, Lines
from embedmill.reindexing.sources.streams import buffered, decompressed, utf8
from embedmill.reply import Rejected
from embedmill.transport.flow import RoundTrip
from embedmill_worker.cache import cache_entry
from embedmill_worker.cache.cache_entry import CacheEntry
from embedmill_worker.celery_patches import messages
from embedmill_worker.jobs import claims
from embedmill_worker.jobs.claims import Bell, Claimant
from embedmill_worker.jobs.reconciler import Reconciler
from embedmill_worker.models.formats.fasttext_file import read_fasttext
from embedmill_worker.models.formats.safetensors import SafetensorsFile
from fuzz.redis_double import answer

KEYS = Keyspace("fuzz")
SEPARATOR = b"\x00|\x00"


@dataclass(frozen=True)
class Decoder:
    """One reader."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]

    def __call__(self, data: bytes) -> None:
        """Reads; an error of ours is as good as a value."""
        try:
            self.read(data)
        except EmbedError as error:
            assert str(error)


DECODERS: dict[str, Decoder] = {}


def decoder(*seeds: bytes):
    def register(read):
        DECODERS[read.__name__] = Decoder(read, seeds)
        return read

    return register


OPTIONS = EmbedOptions(input_type="query", dimensions=8)
CHUNK = Chunk(indices=np.array([0, 2], dtype=np.uint32), texts=("selamat pagi", "a"))
REPLY = ChunkReply(
    indices=np.array([0, 2], dtype=np.uint32),
    vectors=np.ones((2, 8), dtype="<f4").tobytes(),
    dtype=Dtype.FLOAT32,
    dimension=8,
    token_counts=np.array([4, 3], dtype=np.uint32),
    truncated=np.zeros(2, dtype=np.bool_),
    rejected=(Rejected(index=2, reason="failed", detail="x"),),
    fingerprint="f",
    runtime="r",
    timings_ms={"queue": 1.0},
)
CARD = ModelCard(name="m", fingerprint="f", dimension=8, max_tokens=8, chars_per_token=4.0, tokens_per_s=1.0)
WORKER = WorkerInfo(
    worker_id="w", name="n", pid=1, host="h", state="ready", children=2, models={"m": "f"}, active=("j:0:1",)
)
LETTER = dead_letter.of_text(
    "a text",
    keep=True,
    job_id="j",
    chunk=0,
    index=1,
    model="m",
    lane="bulk",
    reason="crashed",
    detail="d",
    attempts=3,
    worker="w",
)


@decoder(pack_chunk(CHUNK), pack_chunk(Chunk(indices=CHUNK.indices, texts=("x" * 9_000, ""))))
def chunk(data):
    read = unpack_chunk(data)
    pack_chunk(read)


@decoder(pack_reply(REPLY))
def reply(data):
    read = unpack_reply(data)
    for options in (EmbedOptions(), OPTIONS):
        form = {"n_texts": 3, "options": options, "rejected": []}
        part = assembly.Intake(**form).take(read)
        filled = Assembly(assembly.Intake(**form))
        filled.add(read)
        filled.add(read)
        whole = filled.reply("m")
        assert len(whole.vectors) == 3 and len(whole.rejected) <= 3
        assert {r.index for r in part.rejected} <= {r.index for r in whole.rejected}


@decoder(pack_options(OPTIONS))
def options(data):
    pack_options(unpack_options(data))


@decoder(pack_rejected(REPLY.rejected))
def rejected(data):
    read_rejected(data)


@decoder(dead_letter.pack(LETTER))
def letter(data):
    read = dead_letter.unpack("1-0", data)
    assert read.at_ms == 1 and repr(read)


@decoder(CARD.to_json().encode())
def card(data):
    assert ModelCard.from_json(data).name.isprintable()


@decoder(WORKER.to_json().encode())
def worker(data):
    assert WorkerInfo.from_json(data).name.isprintable()


def fields(*values: bytes) -> bytes:
    return SEPARATOR.join(values)


RECORD = fields(
    *(b"active", b"m", b"bulk", b"3", b"2", b"1", b"1", b"0", b"1764000000000", b"f"),
    *(pack_options(OPTIONS), pack_rejected(REPLY.rejected)),
)


@decoder(RECORD)
def record(data):
    values = [value or None for value in data.split(SEPARATOR)]
    records.read_record("j", (values + [None] * 12)[:12])


@decoder(fields(b"c", b"0", b"c", b"12", b"s", b"done"))
def events(data):
    values = data.split(SEPARATOR)
    entries = [(b"1-%d" % i, values[i : i + 2]) for i in range(0, len(values), 2)]
    records.read_news(entries)


MESSAGE = {
    "body": json.dumps([[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {"lang": "py", "task": "embedmill.chunk", "id": "5-1", "root_id": "5-1", "timelimit": [10, None]},
    "properties": {
        "correlation_id": "c",
        "delivery_mode": 2,
        "delivery_tag": "t",
        "delivery_info": {"exchange": "", "routing_key": "q"},
    },
}
CANVAS = MESSAGE | {
    "body": json.dumps([[["a text"]], {"model": "m"}, {"callbacks": [{"task": "t"}], "chord": {"task": "t"}}]),
    "headers": {"task": "embedmill.embed", "id": "i", "retries": 0, "eta": None, "group": None, "group_index": 1},
}
PACKED = CANVAS | {"body": msgpack.packb([[["a"]], {}, {}]).decode("latin-1"), "content-type": "application/x-msgpack"}


@decoder(*(json.dumps(made).encode() for made in (MESSAGE, CANVAS, PACKED)))
def message(data):
    """Survives kombu's own reading, too."""
    made = messages.read_message(data.decode(errors="replace"))
    assert len(json.dumps(made)) < 8 * MAX_MESSAGE_BYTES


@decoder(json.dumps([MESSAGE, "", "q"]).encode())
def delivery(data):
    messages.read_delivery(data.decode(errors="replace"))


@decoder(b"5-1", b"1764000000000000-17")
def token(data):
    claims.is_token(data.decode(errors="replace"))


@decoder(fields(b"5-1", b"j 0 64 900 1764000000000001 host.1.ab 77 m bulk gold"))
def held(data):
    name, _, entry = data.partition(SEPARATOR)
    claims.read_held(name, entry)


@decoder(msgpack.packb({"vectors": bytes(64), "shape": [2, 8], "dtype": "float32"}))
def canvas_result(data):
    try:
        result = msgpack.unpackb(data, raw=False)
    except Exception:  # msgpack's own; Celery decodes it
        return
    assert len(canvas.rejected_of(result)) <= len(canvas.vectors_of(result))


@decoder(bytes(64))
def rows(data):
    for dtype in Dtype:
        from_bytes(data, dtype, len(data) % 17)


def _run(flow, data):
    """Drives a flow against a Redis that answers each command with pieces of the data, in its own shapes."""
    pieces = data.split(SEPARATOR)
    try:
        step = next(flow)
        for _ in range(200):
            replies = [answer(command, pieces) for command in step.commands] if isinstance(step, RoundTrip) else None
            step = flow.send(replies)
    except StopIteration:
        pass


MIX = fields(
    b"m bulk", b"j", b"2", b"0", b"j 0 1 1 1 w 7 m bulk gold", WORKER.to_json().encode(), CARD.to_json().encode(), b"f"
)


@decoder(MIX, RECORD)
def looking_around(data):
    _run(discovery.look_around(KEYS), data)


@decoder(MIX, RECORD)
def sweep(data):
    reconciler = Reconciler(KEYS, "w")
    for _ in range(3):
        _run(reconciler.sweep(), data)


@decoder(MIX, RECORD)
def mill_status(data):
    _run(status.read(KEYS), data)


@decoder(fields(b"work", b"j", pack_chunk(CHUNK), pack_options(OPTIONS), b"10.1", b"0:1:lost", b"2"))
def claim(data):
    what, job, texts, asked, limit, *counts = [*data.split(SEPARATOR), b"", b"", b"", b""][:64]
    flow = claims.claim(KEYS, Claimant(bell=Bell(model="m", lane="bulk", token="5-1"), worker_id="w", fingerprint="f"))
    next(flow)
    rest = [0, b"", texts, asked, 3, limit, counts, 0, b"1"] if what == b"work" else []
    try:
        flow.send([[what, job, *rest]])
    except StopIteration as end:
        assert end.value is not None


@decoder(fields(b"j 0 1 1 1 w 7 m bulk gold"))
def give_back(data):
    _run(claims.give_back_token(KEYS, "5-1", "lost"), data)


@decoder(RECORD)
def job_flows(data):
    for flow in (
        reading.read_record(KEYS, "j"),
        reading.read_events(KEYS, "j", "0-0", 0.1),
        reading.fetch(KEYS, "j", [0]),
        reading.end(KEYS, "j", "cancel"),
        dead_letters.list_newest(KEYS, 10),
        dead_letters.read(KEYS, "1-0"),
    ):
        try:
            _run(flow, data)
        except EmbedError:
            continue


def _in_file(data: bytes, name: str, read: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        read(path)


def _read_tensors(path: Path) -> None:
    try:
        file = SafetensorsFile(path)
        for name in file._entries:
            file.mapped(name)
            file.precision(name)
    except ValueError:  # files_of_folder makes a ModelLoadError of it
        return


HEADER = json.dumps({"__metadata__": {}, "t": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()


@decoder(len(HEADER).to_bytes(8, "little") + HEADER + bytes(16))
def safetensors(data):
    _in_file(data, "model.safetensors", _read_tensors)


def _fasttext_seed() -> bytes:
    import struct

    words = (b"</s>", b"river")
    head = struct.pack("<2i12id", 793_712_314, 12, 4, 5, 5, 1, 5, 1, 1, 2, 20, 3, 6, 100, 1e-4)
    head += struct.pack("<3i2q", 2, 2, 0, 100, -1) + b"".join(w + b"\0" + struct.pack("<qb", 7, 0) for w in words)
    matrix = struct.pack("<?2q", False, 22, 4) + bytes(22 * 4 * 4)
    return head + matrix + struct.pack("<?2q", False, 2, 4) + bytes(2 * 4 * 4)


@decoder(_fasttext_seed())
def fasttext(data):
    _in_file(data, "made.bin", lambda path: read_fasttext("m", path, data_dir=path.parent))


# After a byte of our own, since the version's looks like that of packed messages.
@decoder(
    b"e" + cache_entry.pack(CacheEntry(vector=np.ones(8, np.float32), token_count=3, is_truncated=True), b"h" * 32)
)
def read_cache_entry(data: bytes) -> object:
    return cache_entry.unpack(data[1:], b"h" * 32, dimension=8)


@decoder(Index(model="m", fingerprint="f", dimension=8).to_json().encode())
def read_index(data: bytes) -> object:
    return Index.from_json(data)


@decoder(b'{"id": "a", "text": "b", "more": [1, {"c": null}]}')
def read_jsonl(data: bytes) -> object:
    return _records(Jsonl, data)


@decoder(b'[{"id": "a", "text": "b"},\n{"more": [1, {"c": null}]}]')
def read_json(data: bytes) -> object:
    return _records(JsonValues, data)


@decoder(b'id,text\na,"b\nc"\n')
def read_csv(data: bytes) -> object:
    return _records(Csv, data)


@decoder(gzip.compress(b"a\nb\n", mtime=0))
def read_lines(data: bytes) -> object:
    return _records(Lines, data)


def _records(kind: type[FileSource], data: bytes) -> object:
    stream, _ = utf8(decompressed(buffered(io.BytesIO(data)), "x"), "x", "utf-8")
    return list(kind("-", "x", Reading()).records(stream))
