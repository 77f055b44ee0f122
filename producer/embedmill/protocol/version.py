"""The version of the data in Redis."""

from __future__ import annotations

from typing import Final

#: Version of the data in Redis. Each version has keys of its own; see ``keys.py``.
PROTOCOL_VERSION: Final = 2
