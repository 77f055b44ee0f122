"""The probe tells the three classes apart."""

from collections.abc import Callable

import numpy as np
import pytest

from embedmill_worker.engine.probing import probe
from embedmill_worker.engine.probing.measurements import BatchClass
from embedmill_worker.engine.transformer.forward import ForwardPass
from embedmill_worker.engine.transformer.session import OnnxSession
from embedmill_worker.engine.transformer.tokenization import TextTokenizer
from embedmill_worker.models import ModelFiles, Pooling

Tiny = Callable[..., ModelFiles]


def classify(files: ModelFiles) -> tuple[BatchClass, float]:
    tokenizer = TextTokenizer(files.tokenizer, model=files.name, max_tokens=files.max_tokens)
    forward = ForwardPass(files, OnnxSession(files.graph, output=files.output, model=files.name))
    return probe.classify(tokenizer, forward, max_batch_tokens=100)


@pytest.mark.parametrize("kind", ["exact", "close", "variant"])
def test_a_model_is_classed_by_what_its_batches_do(tiny: Tiny, kind: str) -> None:
    assert classify(tiny(kind))[0] == kind


@pytest.mark.parametrize("pooling", [Pooling.CLS, Pooling.MAX])
def test_every_pooling_is_exact_on_an_exact_graph(tiny: Tiny, pooling: Pooling) -> None:
    assert classify(tiny(pooling=pooling))[0] is BatchClass.EXACT


def test_a_graph_that_pools_padding_is_found_out(tiny: Tiny) -> None:
    batch_class, min_cosine = classify(tiny("pooled", pooling=Pooling.NONE))

    assert batch_class is BatchClass.VARIANT
    assert min_cosine < probe.CLOSE_COSINE


def test_a_tokenizer_without_special_tokens_can_be_probed(tiny: Tiny) -> None:
    assert classify(tiny(special=False))[0] is BatchClass.EXACT


def test_the_lowest_cosine_decides() -> None:
    alone = np.eye(4, dtype=np.float32)
    close, far = alone.copy(), alone.copy()
    close[2, 3] = 1e-3
    far[1, 2] = 1

    assert probe.classify_vectors(alone, [alone, alone.copy()]) == (BatchClass.EXACT, 1.0)
    assert probe.classify_vectors(alone, [alone, close])[0] is BatchClass.CLOSE
    assert probe.classify_vectors(alone, [close, far])[0] is BatchClass.VARIANT
    assert probe.classify_vectors(alone, [close, far])[1] == pytest.approx(2**-0.5)


def test_probe_texts_run_from_nothing_to_long() -> None:
    texts = probe.probe_texts()

    assert [len(text.split()) for text in texts] == list(probe.LENGTHS)
    assert texts[0] == ""
    assert len(set(texts)) == len(texts)


def test_characters_a_token_do_not_count_special_tokens(tiny: Tiny) -> None:
    files = tiny()
    tokenizer = TextTokenizer(files.tokenizer, model=files.name, max_tokens=files.max_tokens)
    texts = ["the river", "the"]

    assert probe.chars_per_token(texts, tokenizer) == pytest.approx(12 / 3)
