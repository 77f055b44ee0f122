"""The worker's own Celery app around an engine that sleeps: what a fleet costs besides embedding.

FLEET_TEXT_S=0.018 FLEET_TOKENS_PER_S=3400 celery -A fleet_app worker    # in this folder
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Sequence

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

from embedmill.protocol.cards import ModelCard  # noqa: E402
from embedmill_worker import environment  # noqa: E402
from embedmill_worker.engine.engine import Embeddings  # noqa: E402
from embedmill_worker.service import celery_app  # noqa: E402
from embedmill_worker.settings import WorkerSettings  # noqa: E402

#: Columns of MiniLM.
DIMENSION = 384


class Sleeper:
    """An engine that takes its time and none of the CPU's."""

    price = None
    runtime = "sleeper"

    def __init__(self, name: str, *, text_s: float, tokens_per_s: float) -> None:
        self.card = ModelCard(
            name=name,
            fingerprint="sleeper",
            dimension=DIMENSION,
            max_tokens=256,
            chars_per_token=4.0,
            tokens_per_s=tokens_per_s,
        )
        self._text_s = text_s

    def embed(self, texts: Sequence[str], *, input_type: str | None = None, truncate: bool = True) -> Embeddings:
        time.sleep(self._text_s * len(texts))
        return Embeddings(
            vectors=np.full((len(texts), DIMENSION), DIMENSION**-0.5, dtype=np.float32),
            token_counts=np.full(len(texts), 15, dtype=np.uint32),
            truncated=np.zeros(len(texts), dtype=np.bool_),
        )


class Sleepers:
    """What a worker takes for its loaded models."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.default = settings.model_names[0]
        text_s, tokens_per_s = (float(os.environ[name]) for name in ("FLEET_TEXT_S", "FLEET_TOKENS_PER_S"))
        self._one = Sleeper(self.default, text_s=text_s, tokens_per_s=tokens_per_s)

    def __iter__(self) -> Iterator[Sleeper]:
        yield self._one

    def load_all(self) -> None:
        gc.collect()
        gc.freeze()

    def get(self, name: str) -> Sleeper:
        return self._one


environment.prepare()
celery_app.Engines = Sleepers  # type: ignore[misc,assignment]
app = celery_app.build(WorkerSettings.from_env())
