"""Loading that all tables have in common: numpy as the runtime, a probe, and no prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from embedmill.errors import InferenceError, ModelLoadError
from embedmill.protocol.cards import ModelCard
from embedmill_worker.cpu import instruction_set
from embedmill_worker.engine.engine import Encoder, Engine, Tokenizer
from embedmill_worker.engine.probing.measurements import ProbeCache, ProbeResult
from embedmill_worker.models.fingerprint import fingerprint
from embedmill_worker.models.formats.fasttext_file import FastTextFile
from embedmill_worker.models.formats.static import StaticTable


def engine_of(
    files: StaticTable | FastTextFile,
    tokenizer: Tokenizer,
    encoder: Encoder,
    measure: Callable[[], ProbeResult],
    *,
    dimension: int,
    max_tokens: int,
    cache_dir: Path | None,
) -> Engine:
    """Return the engine of a table; probe it the first time on this machine.

    Raises:
        ModelLoadError: it returns numbers that are not finite.
    """
    runtime = f"numpy {np.__version__} {instruction_set()}"
    cache = ProbeCache(cache_dir, fingerprint(files), runtime)
    result = cache.load()
    if result is None:
        try:
            result = measure()
        except InferenceError as error:
            raise ModelLoadError(files.name, error.reason) from None
        cache.store(result)
    return Engine(
        card=ModelCard(
            name=files.name,
            fingerprint=fingerprint(files),
            dimension=dimension,
            max_tokens=max_tokens,
            chars_per_token=result.chars_per_token,
            tokens_per_s=result.tokens_per_s,
            precision=files.precision,
            batch_class=str(result.batch_class),
            revision=files.revision,
        ),
        runtime=runtime,
        prompts={},
        tokenizer=tokenizer,
        encoder=encoder,
    )
