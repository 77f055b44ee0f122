"""``celery -A embedmill_worker.app worker``: the one module that reads the environment when imported."""

from __future__ import annotations

import os

# Before numpy and the tokenizers are loaded: one thread a process, and none in the parent of a fork.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from embedmill_worker import environment  # noqa: E402

environment.prepare()

from embedmill_worker.service.celery_app import build  # noqa: E402
from embedmill_worker.settings import WorkerSettings  # noqa: E402

app = build(WorkerSettings.from_env())
