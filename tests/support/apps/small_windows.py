"""`embedmill` with windows of 256 texts, so that a small corpus has many commits."""

import sys

from embedmill.reindexing.planning import planner
from embedmill_worker.cli import main

planner.WINDOW_TEXTS = 256

if __name__ == "__main__":
    sys.exit(main())
