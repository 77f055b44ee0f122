"""The worker: engine, models and the Celery app. Needs ``pip install embedmill[worker]``."""
