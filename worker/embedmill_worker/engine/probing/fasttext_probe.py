"""The probe of fastText models: the same texts and the same judge, with words that are seen for the first time."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from embedmill.errors import ModelLoadError
from embedmill_worker.engine.probing.measurements import ProbeResult
from embedmill_worker.engine.probing.probe import SPEED_PASSES, judge, probe_texts
from embedmill_worker.engine.tables.fasttext import FastTextEncoder, FastTextTokenizer
from embedmill_worker.engine.transformer.pooling import finite_rows


def measure(model: str, tokenizer: FastTextTokenizer, encoder: FastTextEncoder) -> ProbeResult:
    """Embed the probe texts alone and together, and time them with no word kept: one in twelve is new, as in real text.

    Raises:
        ModelLoadError: a vector is not finite.
    """
    texts = probe_texts()
    encoded = tokenizer.encode(texts)
    ids = [one.ids for one in encoded if one.ids]
    together = encoder(ids)
    if not finite_rows(together).all():
        raise ModelLoadError(model, "its matrix holds numbers that are not finite; use another file")
    times_s = []
    for _ in range(SPEED_PASSES):
        encoder.words.clear()
        start_s = time.process_time()
        encoder([one.ids for one in tokenizer.encode(texts) if one.ids])
        times_s.append(time.process_time() - start_s)
    encoder.words.clear()
    batch_class, min_cosine = judge(np.concatenate([encoder([row]) for row in ids]), [together])
    token_count = sum(one.token_count for one in encoded)
    return ProbeResult(
        batch_class=batch_class,
        min_cosine=min_cosine,
        tokens_per_s=token_count / median(times_s),
        chars_per_token=sum(map(len, texts)) / token_count,
    )
