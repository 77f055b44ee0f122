"""A worker of the next protocol version: it exists in the tests alone.

Run as ``celery -A other_version_app worker`` with this folder on PYTHONPATH.
"""

from embedmill.protocol import version

version.PROTOCOL_VERSION += 1  # before anything that takes it by name is imported

from embedmill_worker.app import app  # noqa: E402

__all__ = ["app"]
