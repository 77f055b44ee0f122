"""Probe results of models, kept between starts."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from embedmill_worker.models.disk import keep, read_json

#: Version of the probe; raise it when the probe changes, so that stored results of other versions are not used.
PROBE_VERSION: Final = 5


class BatchClass(StrEnum):
    """How far a model is batch-invariant: how a text's vector depends on the texts in its batch."""

    #: The same bits in any batch.
    EXACT = "exact"
    #: Vectors differ by rounding only.
    CLOSE = "close"
    #: Vectors differ visibly, as in dynamically quantised graphs; such a model runs one text at a time.
    VARIANT = "variant"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionReport:
    """Comparison of a model's precision with its fp32, on one kind of machine.

    Raises:
        ValueError: a number is out of range.
    """

    #: Number of texts measured.
    texts: int
    #: Speed as a multiple of the fp32 model's.
    speed: float
    #: Cosine of a text's two vectors: mean and minimum over the texts.
    mean_cosine: float
    min_cosine: float

    def __post_init__(self) -> None:
        if not (
            self.texts > 0 and 0 < self.speed < float("inf") and -1.01 < self.min_cosine <= self.mean_cosine < 1.01
        ):
            raise ValueError(f"{self} has a number out of range")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Probe result of a model on one kind of machine.

    Raises:
        ValueError: a rate is not positive.
    """

    batch_class: BatchClass
    #: Lowest cosine between a text embedded alone and the same text in a batch.
    min_cosine: float
    #: Tokens per second of one core.
    tokens_per_s: float
    #: Characters per token in ordinary text of several languages, without special tokens.
    chars_per_token: float
    #: Comparison with the fp32 model, if this is another precision of it and was measured.
    price: PrecisionReport | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_class", BatchClass(self.batch_class))
        for name in ("tokens_per_s", "chars_per_token"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}, must be positive")


class ProbeCache:
    """Stored probe result, one file per model and kind of machine; nothing is stored without a folder."""

    def __init__(self, folder: Path | None, *parts: object) -> None:
        """Choose the file by ``parts``: everything that a probe result depends on."""
        key = hashlib.sha256(" ".join(map(str, (PROBE_VERSION, *parts))).encode()).hexdigest()[:32]
        self._path = folder / f"{key}.json" if folder else None

    def load(self) -> ProbeResult | None:
        """Read an earlier probe result; return None if there is none or it is invalid."""
        if self._path is None:
            return None
        try:
            return _parse(read_json(self._path))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def store(self, result: ProbeResult) -> None:
        """Store a probe result. If the folder cannot be written, the next start probes again."""
        if self._path is not None:
            keep(self._path, json.dumps(asdict(result)).encode())


def _parse(values: dict[str, Any]) -> ProbeResult:
    numbers = {name: values[name] for name in ("min_cosine", "tokens_per_s", "chars_per_token")}
    return ProbeResult(
        batch_class=BatchClass(str(values["batch_class"])),
        **{name: float(value) for name, value in numbers.items() if isinstance(value, int | float)},
        price=PrecisionReport(**values["price"]) if values.get("price") else None,
    )
