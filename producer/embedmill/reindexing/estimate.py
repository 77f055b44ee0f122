"""The estimated cost of a run, from the first records of its source. Nothing is sent or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from embedmill.errors import InvalidRequestError
from embedmill.jobs import chunking
from embedmill.protocol.cards import ModelCard
from embedmill.reindexing.index import Index
from embedmill.reindexing.metadata import to_json
from embedmill.reindexing.record import BadRecord, Record
from embedmill.reindexing.sources.base import Source

#: Most records and characters in the sample.
SAMPLE_RECORDS: Final = 20_000
SAMPLE_CHARS: Final = 32_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Estimated cost of a run. Totals are for the whole source, or for the sample only if ``fraction`` is None."""

    #: Records in the sample.
    sampled: int
    #: Whether the sample is the whole source.
    is_whole: bool
    #: The sample's share of the source, 0 to 1; None if unknown.
    fraction: float | None
    texts: int
    #: Records of the sample that cannot be read.
    unreadable: int
    #: Texts that are in the sink already.
    unchanged: int
    tokens: int
    #: Seconds that the live workers would take; None if there are none.
    seconds: float | None
    #: Bytes of ids, vectors and metadata, before any compression.
    sink_bytes: int


def estimate(
    source: Source,
    index: Index,
    card: ModelCard,
    *,
    tokens_per_s: float,
    count_unchanged: Callable[[list[Record], list[str]], int],
) -> Estimate:
    """Estimate the cost of a run from a sample of its source.

    Args:
        source: read from its beginning.
        index: the model and options of the vectors.
        card: the card of the model.
        tokens_per_s: throughput of all live workers together; 0 if there are none.
        count_unchanged: takes records and their metadata as JSON, and returns how many are in the sink already.
    """
    records: list[Record] = []
    metadata: list[str] = []
    chars = unreadable = 0
    is_whole = True
    items = iter(source)  # a reference of its own keeps the source open, so that ``fraction`` knows its position
    for item in items:
        if isinstance(item, BadRecord):
            unreadable += 1
            continue
        try:
            metadata.append(to_json(item.metadata))
        except InvalidRequestError:  # a run would reject this record
            unreadable += 1
            continue
        records.append(item)
        chars += len(item.text)
        if len(records) == SAMPLE_RECORDS or chars > SAMPLE_CHARS:
            is_whole = False
            break
    fraction = 1.0 if is_whole else source.fraction()
    scale = 1 / fraction if fraction else 1.0
    lengths = np.array([len(record.text) for record in records], dtype=np.float64)
    tokens = np.minimum(lengths / card.chars_per_token + chunking.SPECIAL_TOKENS, card.max_tokens)
    unchanged = count_unchanged(records, metadata)
    share = 1 - unchanged / len(records) if records else 0.0
    total_tokens = round(float(tokens.sum()) * scale * share)
    return Estimate(
        sampled=len(records),
        is_whole=is_whole,
        fraction=fraction,
        texts=round(len(records) * scale),
        unreadable=unreadable,
        unchanged=round(unchanged * scale),
        tokens=total_tokens,
        seconds=total_tokens / tokens_per_s if tokens_per_s > 0 else None,
        sink_bytes=round(
            sum(len(record.id) + len(carried) for record, carried in zip(records, metadata, strict=True)) * scale
        )
        + round(len(records) * scale) * index.row_bytes
        + (round(chars * scale) if index.with_text else 0),
    )
