"""What the probe found out about a model, kept between starts."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from embedmill_worker.models.disk import keep, read_json

#: To be raised whenever the probe changes: verdicts of another version are not believed.
PROBE_VERSION: Final = 5


class BatchClass(StrEnum):
    """How a text's vector depends on the texts it runs with."""

    #: Not at all: the same bits.
    EXACT = "exact"
    #: By rounding only.
    CLOSE = "close"
    #: Visibly, as in dynamically quantised graphs: such a model runs one text at a time.
    VARIANT = "variant"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionReport:
    """A precision of a model against its fp32, on one kind of machine.

    Raises:
        ValueError: a number that cannot be.
    """

    #: Texts measured.
    texts: int
    #: How many times as fast.
    speed: float
    #: Cosine of each text's two vectors: mean and lowest.
    mean_cosine: float
    min_cosine: float

    def __post_init__(self) -> None:
        if not (
            self.texts > 0 and 0 < self.speed < float("inf") and -1.01 < self.min_cosine <= self.mean_cosine < 1.01
        ):
            raise ValueError(f"{self} is no price")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """A model on one kind of machine.

    Raises:
        ValueError: a rate is not positive.
    """

    batch_class: BatchClass
    #: Lowest cosine of a text alone to the same text in a batch.
    min_cosine: float
    #: Of one core.
    tokens_per_s: float
    #: Of ordinary text in several languages, without special tokens.
    chars_per_token: float
    #: Against the fp32 model, where this is another precision of it.
    price: PrecisionReport | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_class", BatchClass(self.batch_class))
        for name in ("tokens_per_s", "chars_per_token"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}, must be positive")


class ProbeCache:
    """One small file a model and machine; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, *parts: object) -> None:
        """``parts`` are all that a verdict depends on."""
        key = hashlib.sha256(" ".join(map(str, (PROBE_VERSION, *parts))).encode()).hexdigest()[:32]
        self._path = folder / f"{key}.json" if folder else None

    def load(self) -> ProbeResult | None:
        """Read an earlier verdict; None if there is none that can be believed."""
        if self._path is None:
            return None
        try:
            return _parse(read_json(self._path))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def store(self, verdict: ProbeResult) -> None:
        """Keep a verdict; a folder that cannot be written costs only time at the next start."""
        if self._path is not None:
            keep(self._path, json.dumps(asdict(verdict)).encode())


def _parse(values: dict[str, Any]) -> ProbeResult:
    numbers = {name: values[name] for name in ("min_cosine", "tokens_per_s", "chars_per_token")}
    return ProbeResult(
        batch_class=BatchClass(str(values["batch_class"])),
        **{name: float(value) for name, value in numbers.items() if isinstance(value, int | float)},
        price=PrecisionReport(**values["price"]) if values.get("price") else None,
    )
