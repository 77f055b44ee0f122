"""What a model is called, and where it then comes from."""

import pytest

from embedmill.errors import ModelLoadError
from embedmill_worker.models import Pooling, fastembed_registry, known, resolve
from embedmill_worker.models.fastembed_registry import _REFUSALS, _RULES, registered_models


@pytest.fixture
def no_downloads(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(fastembed_registry, "_download", refuse)


def test_every_name_is_known_once_and_the_default_comes_first():
    names = [model.name for model in known()]
    assert names[0] == "all-MiniLM-L6-v2"
    assert len(names) == len(set(names)) > 20
    assert {"BAAI/bge-small-en-v1.5", "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"} <= set(names)
    assert all(model.dimension > 0 and model.bytes > 0 for model in known())


def test_every_class_of_fastembed_is_either_served_or_refused_with_a_reason():
    from fastembed.text.text_embedding import TextEmbedding

    kinds = {kind.__name__ for kind in TextEmbedding.EMBEDDINGS_REGISTRY}
    assert kinds - {"CustomTextEmbedding"} == set(_RULES) | set(_REFUSALS)


def test_the_rules_are_those_of_fastembed_s_own_code():
    """Runs fastembed's post-processing and ours on the same token vectors."""
    import numpy as np
    from fastembed.common.onnx_model import OnnxOutputContext
    from fastembed.text.text_embedding import TextEmbedding

    tokens = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = {
        Pooling.CLS: tokens[:, 0],
        Pooling.MEAN: np.stack([tokens[0, :3].mean(0), tokens[1].mean(0)]),
        Pooling.NONE: tokens[:, 0],
    }
    for kind in TextEmbedding.EMBEDDINGS_REGISTRY:
        if kind.__name__ not in _RULES:
            continue
        pooling, normalize = _RULES[kind.__name__]
        given = tokens[:, 0] if pooling is Pooling.NONE else tokens
        context = OnnxOutputContext(model_output=given, attention_mask=mask, input_ids=mask)
        got = np.stack(list(kind._post_process_onnx_output(object.__new__(kind), context)))
        want = expected[pooling]
        want = want / np.linalg.norm(want, axis=1, keepdims=True) if normalize else want
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_models_that_cannot_be_served_are_listed_with_their_reason_and_refused(no_downloads, tmp_path):
    refused = {model.name: model.refusal for model in registered_models() if model.refusal}
    assert "last token" in refused["Qwen/Qwen3-Embedding-0.6B"]
    for name, reason in refused.items():
        with pytest.raises(ModelLoadError, match=reason):
            resolve(name, data_dir=tmp_path)


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
