"""Reindexing: embed a corpus of any size through the queue into a sink, and keep the sink up to date.

The entry point is ``embedmill.reindex``. This package exports its types, and the protocols for sinks and sources of
your own.
"""

from embedmill.reindexing.api import preview, reindex
from embedmill.reindexing.estimate import Estimate
from embedmill.reindexing.index import Index
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.report import Counts, Progress, ReindexReport
from embedmill.reindexing.sinks.base import Rows, Sink
from embedmill.reindexing.sinks.registry import open_sink
from embedmill.reindexing.sources.base import Fields, Source
from embedmill.reindexing.sources.registry import open_source

__all__ = [
    "BadRecord",
    "Counts",
    "Estimate",
    "Fields",
    "Index",
    "Progress",
    "Record",
    "ReindexReport",
    "Rows",
    "Sink",
    "Source",
    "open_sink",
    "open_source",
    "preview",
    "reindex",
]
