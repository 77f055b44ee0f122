"""Parquet; its reader, and the library that this needs, is loaded when a file is met."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from embedmill.reindexing.sources.base import Form, Reading, Source
from embedmill.reindexing.sources.content import ENCRYPTED_PARQUET, PARQUET


def _read(path: str, name: str, reading: Reading) -> Source:
    return cast(Source, import_module("embedmill.reindexing.sources.arrow").Parquet(path, name, reading))


FORMS: Final = {
    "parquet": Form(
        _read,
        endings=(".parquet", ".parq", ".pq"),
        begins=(PARQUET, ENCRYPTED_PARQUET),
        is_known_by_its_beginning=True,
    ),
}
