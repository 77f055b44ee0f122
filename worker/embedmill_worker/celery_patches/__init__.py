"""What Celery and kombu get wrong for this use, each mended where the version that does it is named."""
