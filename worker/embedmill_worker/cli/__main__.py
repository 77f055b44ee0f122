"""``python -m embedmill_worker.cli``."""

import sys

from embedmill_worker.cli.program import main

sys.exit(main())
