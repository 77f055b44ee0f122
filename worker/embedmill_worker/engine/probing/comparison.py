"""What a precision costs and gains: speed and cosine against fp32, measured on real text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

from embedmill.errors import InferenceError
from embedmill_worker.arrays import Floats, finite_rows
from embedmill_worker.engine.probing.measurements import PrecisionReport
from embedmill_worker.engine.probing.passages import passages
from embedmill_worker.engine.probing.probe import SENTENCES, cosines

#: Passages of Python's language reference that are embedded besides the probe's sentences: about 7,000 tokens, two
#: seconds of MiniLM in fp32.
PASSAGES: Final = 64

#: Interleaved passes of which the medians give the speed, over one text in so many.
PASSES: Final = 3
TIMED_ONE_IN: Final = 4


def price_texts() -> list[str]:
    """Return real text: sentences in several languages and passages of a reference manual."""
    from pydoc_data import topics  # noqa: PLC0415 (half a megabyte, and only for a precision not measured yet)

    found = [passage.text for passage in passages(topics.topics)]
    return [*SENTENCES, *found[:: max(1, len(found) // PASSAGES)][:PASSAGES]]


def measure(
    model: str,
    ids: Sequence[Any],
    reference: Callable[[Sequence[Any]], Floats],
    other: Callable[[Sequence[Any]], Floats],
) -> PrecisionReport:
    """Embed the same tokenized texts in both ways, and some of them again, in turn, to time them.

    Raises:
        InferenceError: one of them failed, or put out numbers that are not finite.
        MemoryError: there is not enough.
    """
    vectors = [reference(ids), other(ids)]
    if not all(finite_rows(rows).all() for rows in vectors):
        raise InferenceError(model, "it puts out numbers that are not finite for ordinary text; use another precision")
    cosine = cosines(*vectors)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(PASSES):
        for way, times_s in zip((reference, other), seconds, strict=True):
            start_s = time.process_time()
            way(ids[::TIMED_ONE_IN])
            times_s.append(time.process_time() - start_s)
    return PrecisionReport(
        texts=len(ids),
        speed=median(seconds[0]) / median(seconds[1]),
        mean_cosine=float(cosine.mean()),
        min_cosine=float(cosine.min()),
    )
