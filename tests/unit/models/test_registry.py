"""What a model is called, and where it then comes from."""

import numpy as np
import pytest
from fastembed.common.onnx_model import OnnxOutputContext
from fastembed.text.text_embedding import TextEmbedding

from embedmill.errors import ModelLoadError
from embedmill_worker.arrays import normalize
from embedmill_worker.engine.transformer.pooling import pool
from embedmill_worker.models import Pooling, known, resolve
from embedmill_worker.models.formats.prompts import known_prompts
from embedmill_worker.models.sources import hub
from embedmill_worker.models.sources.fastembed import RULES, STATIC, registered_models

BOTH, QUERY, NONE = {"query", "passage"}, {"query"}, set()
#: Which input types have a prefix, from the models' cards.
PREFIXES = {
    "BAAI/bge-base-en": QUERY,
    "BAAI/bge-base-en-v1.5": QUERY,
    "BAAI/bge-large-en-v1.5": QUERY,
    "BAAI/bge-small-en": QUERY,
    "BAAI/bge-small-en-v1.5": QUERY,
    "BAAI/bge-small-zh-v1.5": QUERY,
    "mixedbread-ai/mxbai-embed-large-v1": QUERY,
    "snowflake/snowflake-arctic-embed-xs": QUERY,
    "snowflake/snowflake-arctic-embed-s": QUERY,
    "snowflake/snowflake-arctic-embed-m": QUERY,
    "snowflake/snowflake-arctic-embed-m-long": QUERY,
    "snowflake/snowflake-arctic-embed-l": QUERY,
    "jinaai/jina-clip-v1": NONE,
    "Qdrant/constella-zero": NONE,
    "Qdrant/stella-en-400M-v5-doc-onnx": QUERY,
    "Qdrant/clip-ViT-B-32-text": NONE,
    "google/siglip2-base-patch16-224": NONE,
    "sentence-transformers/all-MiniLM-L6-v2": NONE,
    "jinaai/jina-embeddings-v2-base-en": NONE,
    "jinaai/jina-embeddings-v2-small-en": NONE,
    "jinaai/jina-embeddings-v2-base-de": NONE,
    "jinaai/jina-embeddings-v2-base-code": NONE,
    "jinaai/jina-embeddings-v2-base-zh": NONE,
    "jinaai/jina-embeddings-v2-base-es": NONE,
    "thenlper/gte-base": NONE,
    "thenlper/gte-large": NONE,
    "Qdrant/constella-nano": NONE,
    "nomic-ai/nomic-embed-text-v1.5": BOTH,
    "nomic-ai/nomic-embed-text-v1.5-Q": BOTH,
    "nomic-ai/nomic-embed-text-v1": BOTH,
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": NONE,
    "sentence-transformers/paraphrase-multilingual-mpnet-base-v2": NONE,
    "intfloat/multilingual-e5-large": BOTH,
    "jinaai/jina-embeddings-v3": NONE,
    "google/embeddinggemma-300m": BOTH,
    "ibm-granite/granite-embedding-small-english-r2": NONE,
    "Qwen/Qwen3-Embedding-0.6B": QUERY,
    "Qwen/Qwen3-Embedding-0.6B-Q": QUERY,
    "minishlab/potion-base-8M": NONE,
    "minishlab/potion-retrieval-32M": NONE,
    "minishlab/potion-multilingual-128M": NONE,
}


@pytest.fixture
def no_downloads(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(hub, "Repository", refuse)


def test_every_name_is_known_once_and_the_default_comes_first():
    names = [model.name for model in known()]
    assert names[0] == "all-MiniLM-L6-v2"
    assert len(names) == len(set(names)) > 20
    assert {"BAAI/bge-small-en-v1.5", "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"} <= set(names)
    assert all(model.dimension > 0 and model.bytes > 0 for model in known())


def test_every_class_of_fastembed_is_served():
    kinds = {kind.__name__ for kind in TextEmbedding.EMBEDDINGS_REGISTRY}
    assert kinds - {"CustomTextEmbedding"} == set(RULES) | {STATIC}


def test_every_model_of_fastembed_is_served_and_its_prefixes_are_decided():
    """A new release's models fail here until somebody has read their cards."""
    assert [model.name for model in registered_models() if model.refusal] == []
    assert {model.name: set(known_prompts(model.name)) for model in registered_models()} == PREFIXES


def test_a_class_that_is_not_known_is_refused_by_name(no_downloads, tmp_path, monkeypatch):
    monkeypatch.delitem(RULES, "CLIPOnnxEmbedding")
    (refused,) = [model for model in registered_models() if model.refusal]
    assert refused.name == "Qdrant/clip-ViT-B-32-text"
    with pytest.raises(ModelLoadError, match="CLIPOnnxEmbedding"):
        resolve(refused.name, data_dir=tmp_path)


def test_the_rules_are_those_of_fastembed_s_own_code():
    """Runs fastembed's post-processing and ours on the same token vectors."""
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(2, 5, 4)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for kind in TextEmbedding.EMBEDDINGS_REGISTRY:
        if kind.__name__ not in RULES:
            continue
        rule = RULES[kind.__name__]
        is_finished = rule.pooling is Pooling.NONE or isinstance(rule.output, str)
        given = tokens[:, 0] if is_finished else tokens
        context = OnnxOutputContext(model_output=given, attention_mask=mask, input_ids=mask)
        want = np.stack(list(kind._post_process_onnx_output(object.__new__(kind), context)))
        got = pool(given, mask.sum(axis=1), Pooling.NONE if is_finished else rule.pooling)
        np.testing.assert_allclose(normalize(got) if rule.normalize else got, want, rtol=1e-5)


@pytest.mark.parametrize("spec", ["", "=", "=folder", "name=", " "])
def test_a_spec_without_a_name_or_a_folder_is_refused(no_downloads, tmp_path, spec):
    with pytest.raises(ModelLoadError, match="name=folder"):
        resolve(spec, data_dir=tmp_path)


def test_an_unknown_name_is_refused_with_what_comes_close(no_downloads, tmp_path):
    with pytest.raises(ModelLoadError, match=r"did you mean .*paraphrase-multilingual-MiniLM-L12-v2"):
        resolve("paraphrase-multilingual-MiniLM-L12", data_dir=tmp_path)
    with pytest.raises(ModelLoadError, match="neither a known name"):
        resolve("qqqqqqqq", data_dir=tmp_path)


def test_a_folder_may_be_given_with_a_name_or_alone(no_downloads, tmp_path):
    (tmp_path / "mine").mkdir()
    for spec, name in ((f"x={tmp_path / 'mine'}", "x"), (str(tmp_path / "mine"), "mine")):
        with pytest.raises(ModelLoadError, match=r"tokenizer\.json is missing") as raised:
            resolve(spec, data_dir=tmp_path)
        assert raised.value.model == name
