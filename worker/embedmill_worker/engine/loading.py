"""Loading of a model's files into an engine that is warm and, the first time on a machine, probed."""

from __future__ import annotations

from pathlib import Path

from embedmill_worker import environment
from embedmill_worker.engine.engine import Engine
from embedmill_worker.engine.tables.fasttext import load_fasttext
from embedmill_worker.engine.tables.static import load_static
from embedmill_worker.engine.transformer.batching import MAX_BATCH_TOKENS
from embedmill_worker.engine.transformer.loading import load_transformer
from embedmill_worker.models.fingerprint import Model
from embedmill_worker.models.formats.fasttext_file import FastTextFile
from embedmill_worker.models.formats.static import StaticTable


def load(
    files: Model,
    *,
    cache_dir: Path | None,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    exact: bool = False,
    measures_price: bool = False,
) -> Engine:
    """Load a model, warm it and, the first time on a machine, probe it.

    Args:
        files: the model.
        cache_dir: folder of probe results; None: probe every time.
        max_batch_tokens: maximum padded tokens of a run.
        exact: also run a model of the close class one text at a time, so that it is batch-invariant.
        measures_price: compare another precision with the fp32 model, which is loaded for that too; otherwise the
            comparison is known only if it was made before.

    Raises:
        ModelLoadError: the model cannot be served.
    """
    environment.prepare()
    if isinstance(files, StaticTable):
        return load_static(files, cache_dir=cache_dir)
    if isinstance(files, FastTextFile):
        return load_fasttext(files, cache_dir=cache_dir)
    return load_transformer(
        files, cache_dir=cache_dir, max_batch_tokens=max_batch_tokens, exact=exact, measures_price=measures_price
    )
