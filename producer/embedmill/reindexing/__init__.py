"""Reindexing: a corpus of any size through the queue into a sink, again and again.

``embedmill.reindex`` does it; here are the values it speaks of, and what a sink or a source of one's own needs.
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
