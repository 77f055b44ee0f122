"""Modules of benchmarks/: they import each other by bare names, which no test should find by chance."""

import importlib
import sys
from types import ModuleType

from conftest import REPOSITORY


def benchmark(name: str) -> ModuleType:
    """Import one of them."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)
