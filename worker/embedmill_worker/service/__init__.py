"""The worker process: the Celery app, its liveness, signals and sweeps."""
