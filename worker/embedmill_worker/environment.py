"""Environment variables: switches to read, and defaults to set before native libraries start."""

from __future__ import annotations

import os
from typing import Final

#: Defaults; a variable that is already set is kept. OPENBLAS_NUM_THREADS=1 must be set at the program's start
#: instead: numpy reads it on import, which happens before this module is imported.
VARIABLES: Final = {
    # From 1.29 on, onnxruntime sends telemetry as soon as it is imported, with two threads and a device id.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub sends what it fetches, and for whom.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # One process per core already uses every core, and threads do not survive a fork.
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare() -> None:
    """Keep libraries single-threaded and without telemetry; call this before onnxruntime is imported."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


def is_on(value: str) -> bool:
    """Return whether a switch with this value is on; every value but empty and 0 is."""
    return value not in ("", "0")
