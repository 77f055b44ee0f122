"""The command line ``embedmill``. Modules here are light to import: what a command needs, it imports when it runs."""

from embedmill_worker.cli.main import main

__all__ = ["main"]
