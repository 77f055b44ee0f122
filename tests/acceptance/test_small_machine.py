"""What a whole mill takes under load: server, worker with two children, and client."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from embedmill_worker.cli.local.stack import temporary_stack
from embedmill_worker.cli.measure import corpus, pss
from support.benchmark import benchmark

standin = benchmark("standin")

PATIENCE_S = 300.0


def peak_mb(shape, folder):
    """Starts a mill with a stand-in of this shape, lets a client embed texts of every kind, gives the most it took."""
    standin.write(shape, folder / "model")
    texts = (folder / "model" / standin.TEXTS).read_text(encoding="utf-8").splitlines()
    texts += [text for make in corpus.CORPORA.values() for text in make(20)]
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    environment = {
        **os.environ,
        "EMBEDMILL_MODEL": f"standin={folder / 'model'}",
        "EMBEDMILL_DATA_DIR": str(folder / "data"),
        "EMBEDMILL_CONCURRENCY": "2",
    }
    with temporary_stack(environment) as mill:
        place = ["--redis-url", mill.settings.redis_url, "--namespace", mill.settings.namespace]
        files = [str(folder / "texts.txt"), "--output", str(folder / "vectors.npy")]
        with subprocess.Popen([sys.executable, "-m", "embedmill_worker.cli", "embed", *place, *files]) as client:
            peak, deadline_s = 0.0, time.monotonic() + PATIENCE_S
            while client.poll() is None and time.monotonic() < deadline_s:
                parts = (mill.server.pid, mill.worker.pid, client.pid)
                peak = max(peak, sum(map(pss.tree_mb, parts)))
                time.sleep(0.2)
            assert client.poll() == 0
        assert len(pss.tree(mill.worker.pid)) == 3
    vectors = np.load(folder / "vectors.npy")
    assert vectors.shape == (len(texts), shape.hidden)
    assert np.isfinite(vectors).all()
    return peak


@pytest.mark.skipif(not pss.tree_mb(os.getpid()), reason="only Linux tells what processes share")
def test_children_share_weights_tables_and_tokenizer(valkey_binary, tmp_path):
    shape = standin.Shape(layers=6, hidden=384, vocabulary=100_000, max_tokens=256)
    # Weights 197 MB, tokenizer 120, the rest 180: 500 in all. A second copy of any of them would be beyond the bound
    # for its part: of the tokenizer in each child it is 240 more, of the weights 390.
    assert peak_mb(shape, tmp_path) < 620


@pytest.mark.soak
def test_a_multilingual_model_takes_half_of_a_2_gb_machine(valkey_binary, tmp_path):
    assert peak_mb(standin.SHAPES["multilingual-MiniLM-L12"], tmp_path) < 2**31 / 1e6 / 2


@pytest.mark.deep
@pytest.mark.skipif(not pss.tree_mb(os.getpid()), reason="only Linux tells what a process takes")
def test_a_stand_in_s_tokenizer_takes_as_much_memory_as_a_real_one(e5_dir, tmp_path):
    vocabulary = standin.pieces(standin.SHAPES["multilingual-MiniLM-L12"].vocabulary, seed=1)
    (tmp_path / "tokenizer.json").write_text(json.dumps(standin.tokenizer(vocabulary)), encoding="utf-8")
    ours, real = (tokenizer_mb(folder / "tokenizer.json") for folder in (tmp_path, e5_dir))
    assert ours == pytest.approx(real, rel=0.15)


def tokenizer_mb(path):
    """Returns what a process of its own takes more for having read a tokenizer."""
    code = (
        "import os, sys\n"
        "from tokenizers import Tokenizer\n"
        "from embedmill_worker.cli.measure import pss\n"
        "before = pss.process_mb(os.getpid(), counted='Pss_Anon')\n"
        "kept = Tokenizer.from_file(sys.argv[1])\n"
        "print(pss.process_mb(os.getpid(), counted='Pss_Anon') - before)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    return float(subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S).stdout)
