"""Entry point of ``python -m embedmill_worker.cli``."""

import sys

from embedmill_worker.cli import main

sys.exit(main())
