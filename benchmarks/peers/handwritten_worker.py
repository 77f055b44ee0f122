"""The usual hand-written worker: a Celery task around fastembed, its model loaded in every child.

    celery -A handwritten_worker worker --concurrency CORES

Environment: HANDWRITTEN_REDIS (as Celery spells it), HANDWRITTEN_MODEL (folder).
"""

from __future__ import annotations

import os

from celery import Celery
from celery.signals import worker_process_init
from fastembed_peer import load

app = Celery("handwritten", broker=os.environ["HANDWRITTEN_REDIS"], backend=os.environ["HANDWRITTEN_REDIS"])
model = None


@worker_process_init.connect
def load_model(**_):
    global model
    model = load(os.environ["HANDWRITTEN_MODEL"], threads=1)  # as many processes as cores


@app.task
def embed(texts):
    return [vector.tolist() for vector in model.embed(texts)]
