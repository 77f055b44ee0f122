"""The version of the data in Redis."""

from __future__ import annotations

from typing import Final

#: Version of the data in Redis. A worker refuses records of any other version.
PROTOCOL_VERSION: Final = 1
