"""The app of ``celery -A embedmill_worker.app worker``; the only module that reads the environment on import."""

from __future__ import annotations

import os

# Set before numpy and tokenizers are imported: one thread per process, and none in a parent that forks.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from embedmill_worker import environment  # noqa: E402

environment.prepare()

from embedmill_worker.service.celery_app import build  # noqa: E402
from embedmill_worker.settings import WorkerSettings  # noqa: E402

app = build(WorkerSettings.from_env())
