"""The worker's app with patience for its cache, so that a busy machine is not taken for a cache that is gone.

Run as ``celery -A patient_cache_app worker`` with this folder on PYTHONPATH.
"""

from embedmill_worker.app import app as app
from embedmill_worker.cache import store

store.REPLY_S = store.CHECK_S = 60.0
