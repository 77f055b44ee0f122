"""What the engines of all tables have in common: numpy as the runtime, a probe, no prompts."""

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
    """Return the engine of a table, probed if it is the first time on this machine.

    Raises:
        ModelLoadError: it gives numbers that are not finite.
    """
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
            dimension=dimension,
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
