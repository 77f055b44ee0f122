"""The worker's app with Celery's remote control, which embedmill turns off: it exists in the tests alone.

Run as ``celery -A remote_app worker`` with this folder on PYTHONPATH.
"""

from embedmill_worker.app import app

app.conf.worker_enable_remote_control = True
