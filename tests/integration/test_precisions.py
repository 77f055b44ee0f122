"""Other precisions of the embedded default: close to fp32 by a price that is told, and fork-shared as fp32 is."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest

from embedmill.errors import ModelLoadError
from embedmill_worker.cpu import instruction_set
from embedmill_worker.engine import BatchClass, load
from embedmill_worker.engine.transformer import openvino_session
from embedmill_worker.models import in_precision, resolve

MODEL = "all-MiniLM-L6-v2"

#: Lowest cosine to fp32 that each precision promises on the golden texts.
MIN_COSINE = {"bf16": 0.9999, "int8": 0.995}

needs_bf16 = pytest.mark.skipif(
    instruction_set() not in ("avx512_bf16", "amx_tile"), reason=f"no bf16 arithmetic on this CPU ({instruction_set()})"
)
PRECISIONS = [pytest.param("bf16", marks=needs_bf16), "int8"]

#: Loads an engine in a fresh process with an empty home, forks it, and says what each process gave and what was left.
FORKING = """
import json, os, sys
from pathlib import Path
from embedmill_worker.engine import load
from embedmill_worker.models import in_precision, resolve

data_dir = Path(sys.argv[3])
files = in_precision(resolve(sys.argv[1], data_dir=data_dir), sys.argv[2], data_dir=data_dir)
engine = load(files, cache_dir=data_dir / "probes")
texts = json.load(sys.stdin)
before = engine.embed(texts).vectors.tobytes().hex()
pipes = []
for _ in range(2):
    reading, writing = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writing, "w") as pipe:
            pipe.write(engine.embed(texts).vectors.tobytes().hex())
        os._exit(0)
    os.close(writing)
    pipes.append(os.fdopen(reading))
seen = [before, *(pipe.read() for pipe in pipes)]
assert [os.wait()[1] for _ in range(2)] == [0, 0]
json.dump({"seen": seen, "telemetry": "openvino_telemetry.main" in sys.modules}, sys.stdout)
"""


@pytest.fixture(scope="module")
def engines(data_dir):
    loaded = {}

    def engine(precision, **options):
        key = (precision, *options.items())
        if key not in loaded:
            files = in_precision(resolve(MODEL, data_dir=data_dir), precision, data_dir=data_dir)
            loaded[key] = load(files, cache_dir=data_dir / "probes", **options)
        return loaded[key]

    return engine


def texts_of(golden, count=200):
    rng = random.Random(5)
    words = sorted({word for text in golden.texts for word in text.split() if len(word) < 9})
    return [" ".join(rng.choices(words, k=min(150, int(rng.lognormvariate(1.5, 1.1))))) for _ in range(count)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_vectors_are_as_close_to_fp32_as_promised(engines, golden, precision):
    fp32, other = (engines(p).embed(golden.texts).vectors for p in ("fp32", precision))

    assert (fp32 * other).sum(axis=1).min() >= MIN_COSINE[precision]
    assert fp32.tobytes() != other.tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_is_part_of_the_card_and_of_the_fingerprint(engines, precision):
    fp32, other = engines("fp32").card, engines(precision).card

    assert other.precision == precision
    assert other.fingerprint != fp32.fingerprint
    assert (other.name, other.dimension, other.max_tokens) == (fp32.name, fp32.dimension, fp32.max_tokens)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_its_price_is_measured_against_fp32(engines, precision):
    assert engines("fp32").price is None
    price = engines(precision, measures_price=True).price
    assert price.texts > 60
    assert price.speed > 0
    assert MIN_COSINE[precision] <= price.min_cosine <= price.mean_cosine <= 1.0001


@needs_bf16
@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.deep)])
def test_bf16_is_close_and_batched_and_exact_bits_are_had_for_the_asking(engines, golden, count):
    texts = texts_of(golden, count)
    assert engines("bf16").card.batch_class == BatchClass.CLOSE
    exact = engines("bf16", exact=True)
    alone = np.concatenate([engines("bf16").embed([text]).vectors for text in texts])

    for seed, chunk in enumerate((count, 13)):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        for start in range(0, len(order), chunk):
            positions = order[start : start + chunk]
            some = [texts[i] for i in positions]
            assert exact.embed(some).vectors.tobytes() == alone[positions].tobytes()
            assert (engines("bf16").embed(some).vectors * alone[positions]).sum(axis=1).min() >= MIN_COSINE["bf16"]


@pytest.mark.parametrize("count", [120, pytest.param(500, marks=pytest.mark.deep)])
def test_int8_gives_a_text_the_same_bits_in_any_company(engines, golden, count):
    texts = texts_of(golden, count)
    int8 = engines("int8")
    alone = np.concatenate([int8.embed([text]).vectors for text in texts])

    assert int8.card.batch_class == BatchClass.EXACT
    for seed, chunk in enumerate((count, 70, 7)):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        for start in range(0, len(order), chunk):
            positions = order[start : start + chunk]
            assert int8.embed([texts[i] for i in positions]).vectors.tobytes() == alone[positions].tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_forked_children_give_the_parent_s_bits_and_nobody_is_told(engines, data_dir, golden, tmp_path, precision):
    engines(precision)
    silencers = {"ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in silencers}
    done = subprocess.run(
        [sys.executable, "-c", FORKING, MODEL, precision, str(data_dir)],
        input=json.dumps(golden.texts[::8]),
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    said = json.loads(done.stdout)
    here = engines(precision).embed(golden.texts[::8]).vectors.tobytes().hex()
    assert [vectors == here for vectors in said["seen"]] == [True] * 3
    assert not said["telemetry"]
    assert list(tmp_path.iterdir()) == []


def test_bf16_is_refused_where_the_cpu_has_none(data_dir, monkeypatch):
    class OldCore:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    class OldOpenVino:
        Core = OldCore

        def get_version(self):
            return "2026.4.1-1"

    monkeypatch.setattr(openvino_session, "_openvino", lambda model: OldOpenVino())
    files = in_precision(resolve(MODEL, data_dir=data_dir), "bf16", data_dir=data_dir)

    with pytest.raises(ModelLoadError, match=r"bf16 needs a CPU with AVX512_BF16 or AMX.*EMBEDMILL_PRECISION=int8"):
        load(files, cache_dir=None)


def test_bf16_without_openvino_says_what_to_install(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    files = in_precision(resolve(MODEL, data_dir=data_dir), "bf16", data_dir=data_dir)

    with pytest.raises(ModelLoadError, match=r"pip install 'embedmill\[openvino\]'"):
        load(files, cache_dir=None)
