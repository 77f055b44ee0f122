"""A vector that is not finite is none, whatever kind of model makes it: its text is rejected, its neighbours not."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from embedmill.errors import ModelLoadError
from embedmill.reply import Reason
from embedmill_worker.engine import Engine, load
from embedmill_worker.engine.transformer.pooling import DenseLayer
from embedmill_worker.models import ModelFiles, Pooling, resolve
from embedmill_worker.models.files import Activation

from .conftest import DIMENSION, WORDS, tokenizer

Tiny = Callable[..., ModelFiles]

#: NaN, infinity, and a number whose square no float32 holds.
SPOILT = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])

#: The word whose row is spoilt; no text of the probe holds it.
BAD = "loud"
TEXTS = ["the river", BAD, "to hold", f"power {BAD} in", BAD, ""]
BAD_PLACES = [1, 3, 4]


def spoil(files: ModelFiles, value: float, word: str = BAD) -> ModelFiles:
    """Changes one word's row in the graph."""
    model = onnx.load(files.graph)
    (words,) = [tensor for tensor in model.graph.initializer if tensor.name == "words"]
    table = numpy_helper.to_array(words).copy()
    table[WORDS.index(word)] = value
    words.CopyFrom(numpy_helper.from_array(table, "words"))
    onnx.save(model, files.graph)
    return files


def assert_only_bad_ones_are_rejected(engine: Engine, sound: Engine) -> None:
    embedded, expected = engine.embed(TEXTS), sound.embed(TEXTS)

    assert [(r.index, r.reason) for r in embedded.rejected] == [(i, Reason.NOT_FINITE) for i in BAD_PLACES]
    assert all(BAD not in r.detail for r in embedded.rejected)
    assert np.isnan(embedded.vectors[BAD_PLACES]).all()
    good = [i for i in range(len(TEXTS)) if i not in BAD_PLACES]
    assert embedded.vectors[good].tobytes() == expected.vectors[good].tobytes()
    assert embedded.token_counts.tolist() == expected.token_counts.tolist()


@SPOILT
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["exact", "close"])
def test_a_graph_s_text_that_is_not_finite_is_rejected(tiny: Tiny, kind: str, normalize: bool, value: float) -> None:
    files, sound = spoil(tiny(kind, normalize=normalize), value), tiny(kind, normalize=normalize)

    assert_only_bad_ones_are_rejected(load(files, cache_dir=None, exact=True), load(sound, cache_dir=None, exact=True))


def test_a_text_that_a_neighbour_spoils_has_the_vector_it_has_alone(tiny: Tiny) -> None:
    def encoder(ids: list[list[int]]) -> np.ndarray:
        rows = np.array([[len(row)] * DIMENSION for row in ids], dtype=np.float32)
        return np.full_like(rows, np.nan) if any(WORDS.index(BAD) in row for row in ids) else rows

    embedded = dataclasses.replace(load(tiny(), cache_dir=None), encoder=encoder).embed(["the", BAD, "the river"])

    assert [r.index for r in embedded.rejected] == [1]
    assert embedded.vectors[[0, 2], 0].tolist() == [3.0, 4.0]


@pytest.mark.parametrize("pooling", [p for p in Pooling if p is not Pooling.NONE])
def test_no_pooling_hides_it(tiny: Tiny, pooling: Pooling) -> None:
    files = spoil(tiny(pooling=pooling, special=False), np.nan)

    embedded = load(files, cache_dir=None).embed(["the", BAD])

    assert [(r.index, r.reason) for r in embedded.rejected] == [(1, Reason.NOT_FINITE)]


@pytest.mark.parametrize("activation", list(Activation))
def test_no_activation_of_a_dense_layer_hides_it(activation: Activation) -> None:
    layer = DenseLayer(
        weight=np.ones((3, 2), dtype=np.float32),
        bias=np.zeros(3, dtype=np.float32),
        activation=activation,
        normalizes_first=False,
        model="m",
    )
    for value in (np.nan, np.inf, -np.inf):
        with np.errstate(invalid="ignore"):  # as the engine does
            rows = layer(np.array([[1, value], [1, 1]], dtype=np.float32))
        assert np.isnan(rows[0]).all()
        assert np.isfinite(rows[1]).all()


@pytest.mark.parametrize("normalize", [True, False])
@SPOILT
def test_a_static_table_s_text_that_is_not_finite_is_rejected(tmp_path: Path, normalize: bool, value: float) -> None:
    bad, sound = (static(tmp_path / name, normalize, spoilt) for name, spoilt in (("bad", value), ("sound", 1.0)))

    assert_only_bad_ones_are_rejected(bad, sound)


def static(folder: Path, normalize: bool, value: float) -> Engine:
    """A model2vec folder; one word's row is ``value``."""
    folder.mkdir()
    table = np.random.default_rng(3).normal(size=(len(WORDS), DIMENSION)).astype("<f4")
    table[WORDS.index(BAD)] = value
    header = {"embeddings": {"dtype": "F32", "shape": list(table.shape), "data_offsets": [0, table.nbytes]}}
    packed = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(packed).to_bytes(8, "little") + packed + table.tobytes())
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": normalize}))
    tokenizer(special=False).save(str(folder / "tokenizer.json"))
    return load(resolve(str(folder), data_dir=folder), cache_dir=None)


def test_a_static_table_without_a_finite_row_is_not_served(tmp_path: Path) -> None:
    folder = tmp_path / "nan"
    static(folder, True, 1.0)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: -len(WORDS) * DIMENSION * 4] + np.full((len(WORDS), DIMENSION), np.nan, "<f4").tobytes())

    with pytest.raises(ModelLoadError, match="not finite"):
        load(resolve(str(folder), data_dir=folder), cache_dir=None)


@SPOILT
def test_a_fasttext_matrix_s_text_that_is_not_finite_is_rejected(write_fasttext, tmp_path: Path, value: float) -> None:
    words = (b"</s>", *(word.encode() for word in WORDS if word.isalpha()))
    engines = [
        load(resolve(f"ft={fasttext(write_fasttext, name, words, spoilt)}", data_dir=tmp_path), cache_dir=None)
        for name, spoilt in (("bad.bin", value), ("sound.bin", 1.0))
    ]

    assert_only_bad_ones_are_rejected(*engines)


def fasttext(write: Callable[..., Path], name: str, words: tuple[bytes, ...], value: float) -> Path:
    """A file whose row of one word is ``value``; its last matrix ends the file."""
    dimension, bucket = 4, 20
    path = write(name, words=words, dimension=dimension, bucket=bucket)
    data = bytearray(path.read_bytes())
    input_matrix = len(data) - len(words) * dimension * 4 - 17 - (len(words) + bucket) * dimension * 4
    row = input_matrix + words.index(BAD.encode()) * dimension * 4
    data[row : row + dimension * 4] = np.full(dimension, value, "<f4").tobytes()
    path.write_bytes(data)
    return path


def test_it_is_looked_for_whatever_the_encoder(tiny: Tiny) -> None:
    def encoder(ids: list[list[int]]) -> np.ndarray:
        return np.array([[np.nan if len(row) == 4 else 1] * DIMENSION for row in ids], dtype=np.float32)

    engine = dataclasses.replace(load(tiny(), cache_dir=None), encoder=encoder)

    embedded = engine.embed(["the", "the river", "in"])

    assert [(r.index, r.reason) for r in embedded.rejected] == [(1, Reason.NOT_FINITE)]
