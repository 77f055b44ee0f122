"""The process: the Celery app, its life, its signals and its sweeps."""
