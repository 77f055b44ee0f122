"""The version of everything that lies in Redis."""

from __future__ import annotations

from typing import Final

#: Version of everything in Redis. A worker refuses records of another one.
PROTOCOL_VERSION: Final = 1
