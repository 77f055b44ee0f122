"""Celery apps and commands of the tests' own, run as modules by processes that have this folder on their PYTHONPATH."""

from pathlib import Path

FOLDER = str(Path(__file__).parent)
