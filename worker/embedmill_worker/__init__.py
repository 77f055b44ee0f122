"""The worker: engine, models and the Celery app. It needs ``pip install embedmill[worker]``."""
