"""A table's files to an engine: a static model's, or fastText's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from embedmill.errors import InferenceError, ModelLoadError
from embedmill.protocol.cards import ModelCard
from embedmill_worker.arrays import finite_rows
from embedmill_worker.cpu import instruction_set
from embedmill_worker.engine.engine import Engine, Tokenizer
from embedmill_worker.engine.probing.measurements import ProbeCache, ProbeResult
from embedmill_worker.engine.probing.probe import SPEED_PASSES, judge, measure_encoder, probe_texts
from embedmill_worker.engine.tables.fasttext import FastTextEncoder, FastTextTokenizer
from embedmill_worker.engine.tables.static import StaticEncoder
from embedmill_worker.engine.transformer.tokenization import TextTokenizer
from embedmill_worker.models.fingerprint import fingerprint
from embedmill_worker.models.formats import fasttext_file, static
from embedmill_worker.models.formats.fasttext_file import FastTextFile
from embedmill_worker.models.formats.static import StaticTable


def load_table(files: StaticTable | FastTextFile, *, cache_dir: Path | None) -> Engine:
    """Load a table; see ``engine.load``."""
    return _load_static(files, cache_dir) if isinstance(files, StaticTable) else _load_fasttext(files, cache_dir)


def _load_static(files: StaticTable, cache_dir: Path | None) -> Engine:
    tokenizer = TextTokenizer(files.tokenizer, model=files.name, max_tokens=static.MAX_TOKENS, adds_special=False)
    encoder = StaticEncoder(files)
    return _engine(
        files,
        tokenizer,
        encoder,
        lambda: measure_encoder(tokenizer, encoder),
        max_tokens=static.MAX_TOKENS,
        cache_dir=cache_dir,
    )


def _load_fasttext(files: FastTextFile, cache_dir: Path | None) -> Engine:
    tokenizer = FastTextTokenizer(is_supervised=files.header.is_supervised)
    encoder = FastTextEncoder(files)
    return _engine(
        files,
        tokenizer,
        encoder,
        lambda: _probe_fasttext(files.name, tokenizer, encoder),
        max_tokens=fasttext_file.MAX_TOKENS,
        cache_dir=cache_dir,
    )


def _engine(
    files: StaticTable | FastTextFile,
    tokenizer: Tokenizer,
    encoder: StaticEncoder | FastTextEncoder,
    measure: Callable[[], ProbeResult],
    *,
    max_tokens: int,
    cache_dir: Path | None,
) -> Engine:
    runtime = f"numpy {np.__version__} {instruction_set()}"
    cache = ProbeCache(cache_dir, fingerprint(files), runtime)
    verdict = cache.load()
    if verdict is None:
        try:
            verdict = measure()
        except InferenceError as error:
            raise ModelLoadError(files.name, error.reason) from None
        cache.store(verdict)
    return Engine(
        card=ModelCard(
            name=files.name,
            fingerprint=fingerprint(files),
            dimension=encoder.dimension,
            max_tokens=max_tokens,
            chars_per_token=verdict.chars_per_token,
            tokens_per_s=verdict.tokens_per_s,
            precision=files.precision,
            batch_class=str(verdict.batch_class),
            revision=files.revision,
        ),
        runtime=runtime,
        prompts={},
        tokenizer=tokenizer,
        encoder=encoder,
    )


def _probe_fasttext(name: str, tokenizer: FastTextTokenizer, encoder: FastTextEncoder) -> ProbeResult:
    """Embed the probe texts alone and together, and time them with no word kept: one in twelve is new, as in real text.

    Raises:
        InferenceError: a vector is not finite.
    """
    texts = probe_texts()
    encoded = tokenizer.encode(texts)
    ids = [one.ids for one in encoded if one.ids]
    together = encoder(ids)
    if not finite_rows(together).all():
        raise InferenceError(name, "its matrix holds numbers that are not finite; use another file")
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
