"""One worker that serves several models, of different dimensions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedmill import EmbeddingClient
from embedmill.errors import RequestError

KINDS = Path(__file__).resolve().parent.parent / "data" / "golden" / "kinds"
TEXTS = json.loads((KINDS / "texts.json").read_text())
VARIANTS = json.loads((KINDS / "variants.json").read_text())


@pytest.fixture
def folders(tmp_path) -> dict[str, Path]:
    """Two tiny models: mean-pooled, of dimension 16, and with a dense layer, of dimension 8."""
    made = {"mpnet": tmp_path / "mpnet", "dense": tmp_path / "dense"}
    for variant, folder in made.items():
        shutil.copytree(KINDS / VARIANTS[variant]["base"], folder)
        for path, content in VARIANTS[variant]["files"].items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(json.dumps(content))
    return made


def test_one_worker_serves_two_models_on_both_lanes(own_mill, folders, golden_kinds, tmp_path):
    names = ",".join(f"{name}={folder}" for name, folder in folders.items())
    own_mill.start_worker(EMBEDMILL_MODEL=names, EMBEDMILL_DATA_DIR=str(tmp_path / "data"))
    with EmbeddingClient(own_mill.redis_url, namespace=own_mill.namespace) as client:
        jobs = {name: client.submit(TEXTS, model=name) for name in folders}
        for name, dimension in (("mpnet", 16), ("dense", 8)):
            now = client.embed(TEXTS, model=name)
            reply = jobs[name].result(120)
            assert now.shape == (len(TEXTS), dimension)
            assert now.tobytes() == reply.vectors.tobytes()
            np.testing.assert_allclose(now, golden_kinds[name], atol=1e-4)
            assert client.embed(TEXTS[:2], model=name, dimensions=dimension // 2).shape == (2, dimension // 2)
        assert jobs["mpnet"].status().fingerprint != jobs["dense"].status().fingerprint
        # Nothing says which of the two is meant.
        with pytest.raises(RequestError, match=r"dense.*mpnet"):
            client.embed(TEXTS)
    with EmbeddingClient(own_mill.redis_url, "dense", namespace=own_mill.namespace) as client:
        assert client.embed(TEXTS[:1]).shape == (1, 8)


def test_a_multilingual_model_s_prefixes_come_through_the_queue(own_mill, e5_dir, tmp_path):
    own_mill.start_worker(EMBEDMILL_MODEL=f"multilingual-e5-small={e5_dir}", EMBEDMILL_DATA_DIR=str(tmp_path / "data"))
    with EmbeddingClient(own_mill.redis_url, namespace=own_mill.namespace) as client:
        query = client.embed(["Di mana toko buku?", "Selamat pagi"], input_type="query")
        written = client.embed(["query: Di mana toko buku?", "query: Selamat pagi"])
        passage = client.embed(["Di mana toko buku?", "Selamat pagi"], input_type="passage")
    assert query.shape == (2, 384)
    assert query.tobytes() == written.tobytes() != passage.tobytes()
