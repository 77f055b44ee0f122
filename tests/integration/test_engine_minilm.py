"""The engine on the embedded default: the right vectors, the same bits however batched, in every forked child."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedmill_worker.engine import BatchClass, Engine, load
from embedmill_worker.models import resolve

MODEL = "all-MiniLM-L6-v2"

#: Loads the engine in a fresh process and forks it, as a worker does; says what each process saw.
FORKING = """
import json, os, sys
from pathlib import Path
from embedmill_worker.engine import load
from embedmill_worker.models import resolve

engine = load(resolve(sys.argv[1], data_dir=Path(sys.argv[2])), cache_dir=Path(sys.argv[2]) / "probes")
texts = json.load(sys.stdin)

def seen():
    vectors = engine.embed(texts).vectors.tobytes().hex()
    tasks = Path("/proc/self/task")
    return {"vectors": vectors, "threads": len(list(tasks.iterdir())) if tasks.is_dir() else 1}

def in_child():
    reading, writing = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writing, "w") as pipe:
            json.dump(seen(), pipe)
        os._exit(0)
    os.close(writing)
    return os.fdopen(reading)

before = [in_child(), in_child()]
children = [json.load(pipe) for pipe in before]
parent = seen()
children.append(json.load(in_child()))
for _ in range(3):
    assert os.wait()[1] == 0
json.dump({"parent": parent, "children": children}, sys.stdout)
"""


@pytest.fixture(scope="module")
def engine(data_dir: Path) -> Engine:
    return load(resolve(MODEL, data_dir=data_dir), cache_dir=data_dir / "probes")


def generated_texts(count: int, words: list[str]) -> list[str]:
    """Seeded texts of 0 to 200 words, most of them under ten, so that all are done in seconds."""
    rng = random.Random(11)
    lengths = [min(200, int(rng.lognormvariate(1.3, 1.2))) for _ in range(count)]
    return [" ".join(rng.choices(words, k=length)) for length in lengths]


def test_vectors_are_those_of_sentence_transformers(engine, golden):
    embedded = engine.embed(golden.texts)

    cosines = (embedded.vectors * golden.vectors).sum(axis=1)
    assert cosines.min() >= 0.9999, f"row {int(cosines.argmin())}"
    np.testing.assert_allclose(np.linalg.norm(embedded.vectors, axis=1), 1, atol=1e-5)
    assert embedded.token_counts.tolist() == golden.token_counts
    assert embedded.truncated.tolist() == [count > 256 for count in golden.token_counts]
    assert embedded.rejected == ()


def test_fp32_is_of_the_exact_class(engine):
    assert engine.card.batch_class == BatchClass.EXACT
    assert (engine.card.dimension, engine.card.max_tokens, engine.card.precision) == (384, 256, "fp32")
    assert 2 < engine.card.chars_per_token < 6
    assert engine.card.tokens_per_s > 100


@pytest.mark.parametrize("count", [250, pytest.param(1000, marks=pytest.mark.deep)])
def test_texts_have_the_same_bits_alone_and_in_any_company(engine, golden, count):
    texts = generated_texts(count, sorted({word for text in golden.texts for word in text.split() if len(word) < 9}))
    alone = np.concatenate([engine.embed([text]).vectors for text in texts])

    for seed, chunk in enumerate((count, 90, 7)):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        for start in range(0, len(order), chunk):
            positions = order[start : start + chunk]
            vectors = engine.embed([texts[i] for i in positions]).vectors
            assert vectors.tobytes() == alone[positions].tobytes(), f"seed {seed}, chunk at {start}"


def test_a_text_cut_off_is_that_of_its_first_tokens(engine):
    whole, longer = engine.embed(["river " * 254, "river " * 254 + "bank " * 4000]).vectors

    assert whole.tobytes() == longer.tobytes()


def test_a_hundred_thousand_characters_are_one_text(engine):
    texts = ["a" * 100_000, "漢字" * 50_000, "word " * 20_000, "!" * 100_000, " " * 100_000]
    embedded = engine.embed(texts)

    assert embedded.token_counts.tolist() == [3, 100_002, 20_002, 100_002, 2]
    assert np.isfinite(embedded.vectors).all()


def test_forked_children_give_the_parent_s_bits_on_one_thread_and_report_to_nobody(engine, data_dir, golden, tmp_path):
    texts = golden.texts[::8]
    # CI also silences onnxruntime, and would hide that we do not.
    silencers = {"ORT_DISABLE_TELEMETRY", "TOKENIZERS_PARALLELISM", "CI", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in silencers}
    done = subprocess.run(
        [sys.executable, "-c", FORKING, MODEL, str(data_dir)],
        input=json.dumps(texts),
        env={**environment, "OPENBLAS_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    seen = json.loads(done.stdout)
    here = engine.embed(texts).vectors.tobytes().hex()
    assert [process["vectors"] == here for process in (seen["parent"], *seen["children"])] == [True] * 4
    assert [process["threads"] for process in (seen["parent"], *seen["children"])] == [1] * 4
    assert list(tmp_path.rglob("onnxruntime*")) == []
