"""What the environment says of switches, and to native libraries before they start."""

from __future__ import annotations

import os
from typing import Final

#: Values that somebody has set are left as they are. OPENBLAS_NUM_THREADS=1 belongs to the program's start: it
#: acts when numpy is imported, which is before this module can be.
VARIABLES: Final = {
    # From 1.29 on, onnxruntime reports to its maker, with two threads and a device id, from its first import on.
    "ORT_DISABLE_TELEMETRY": "1",
    # So does huggingface_hub with what it fetches and for whom.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # One process a core already uses every core, and threads do not survive a fork.
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare() -> None:
    """Keep this process to one thread and its libraries quiet; to be called before onnxruntime is imported."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


def is_on(value: str) -> bool:
    """Return whether a switch is on whose variable has this value: unless it is empty or 0."""
    return value not in ("", "0")
