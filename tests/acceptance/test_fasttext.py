"""fastText through the queue, and a file that is larger than the memory its process may have."""

import json
import subprocess
import sys

import numpy as np

from embedmill import EmbeddingClient

#: Bytes of memory of its own that a process may have; the file is nearly four times as large.
LIMIT_BYTES = 512 << 20

TEXTS = ["Selamat pagi", "toko buku di jalan Diponegoro", "", "never seen", "__label__x", "日本語 emoji😀"]

#: Loads a model under the limit, embeds in two forked children, and says what memory that took.
SERVE = """
import json, multiprocessing, re, resource, sys
from pathlib import Path

resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[3]),) * 2)
from embedmill_worker.engine import load
from embedmill_worker.models import resolve

path = sys.argv[1]
engine = load(resolve(f"ft={path}", data_dir=Path(sys.argv[2])), cache_dir=None)
texts = [f"river pagi word{i} other{i}" for i in range(300)]
context = multiprocessing.get_context("fork")
barrier = context.Barrier(2)


def kilobytes(lines, key):
    return sum(map(int, re.findall(rf"^{key}:\\s+(\\d+)", lines, re.MULTILINE)))


def child(pipe):
    vectors = engine.embed(texts).vectors
    barrier.wait(60)
    whole = Path("/proc/self/smaps_rollup").read_text()
    parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    mapped = "".join(part for part in parts if path in part.partition("\\n")[0])
    facts = {key: kilobytes(mapped, key) for key in ("Size", "Rss", "Pss", "Private_Dirty")}
    barrier.wait(60)
    pipe.send({"rss": kilobytes(whole, "Rss"), "mapped": facts, "vector": vectors[0].tolist()})


pipes = [context.Pipe() for _ in range(2)]
children = [context.Process(target=child, args=(there,)) for _, there in pipes]
for one, (_, there) in zip(children, pipes, strict=True):
    one.start()
    there.close()  # so that a child that fails is seen at once
found = [here.recv() for here, _ in pipes]
for one in children:
    one.join(60)
try:
    bytearray(Path(path).stat().st_size)
    refused = False
except MemoryError:
    refused = True
print(json.dumps({"refused": refused, "children": found}))
"""


def test_a_file_larger_than_the_memory_limit_is_served_and_its_pages_are_shared(write_fasttext, tmp_path):
    path = write_fasttext(dimension=256, bucket=2_000_000)
    size = path.stat().st_size
    assert size > 3.8 * LIMIT_BYTES
    assert path.stat().st_blocks * 512 < size / 100, "the file's hole takes room on the disk"
    command = [sys.executable, "-c", SERVE, str(path), str(tmp_path / "data"), str(LIMIT_BYTES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["refused"], "the limit has no effect here"
    first, second = facts["children"]
    assert first["vector"] == second["vector"]
    assert np.linalg.norm(first["vector"]) > 0.1
    for child in (first, second):
        mapped = child["mapped"]
        assert mapped["Size"] * 1024 >= size
        assert mapped["Private_Dirty"] == 0
        assert 0 < mapped["Pss"] < 0.7 * mapped["Rss"]
        assert child["rss"] * 1024 < size / 8


def test_a_fasttext_model_is_served_beside_another_one(own_mill, trained_fasttext):
    trained = trained_fasttext("skipgram", minn=5, maxn=5)
    own_mill.start_worker(EMBEDMILL_MODEL=f"all-MiniLM-L6-v2,ft={trained.path}", EMBEDMILL_CONCURRENCY="2")
    official = np.stack([trained.vector(text) for text in TEXTS])
    with EmbeddingClient(own_mill.redis_url, namespace=own_mill.namespace) as client:
        vectors = client.embed(TEXTS, model="ft", timeout_s=60)
        many = client.embed(TEXTS * 2_000, model="ft", lane="bulk", timeout_s=120)
        assert client.embed(TEXTS, model="all-MiniLM-L6-v2", timeout_s=60).shape == (len(TEXTS), 384)
    np.testing.assert_allclose(vectors, official, rtol=1e-3, atol=1e-5)
    assert many.tobytes() == np.tile(vectors, (2_000, 1)).tobytes()
