"""The command line ``embedmill``. Modules here are light to import: what a command needs, it imports when it runs."""

from embedmill_worker.cli.program import main

__all__ = ["main"]
