"""Measured at load, once for each model and runtime: does a vector depend on its batch, and how fast is a core?"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import numpy.typing as npt

from embedmill_worker.models.digest import write_atomically

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

#: Cosine from which a batched vector passes for the one computed alone.
CLOSE_COSINE: Final = 0.9999

#: Version of the probe: a verdict of another one is not believed.
PROBE_VERSION: Final = 1


class BatchClass(StrEnum):
    """How a text's vector depends on the texts it runs with."""

    #: Not at all: the same bits.
    EXACT = "exact"
    #: By rounding only.
    CLOSE = "close"
    #: Visibly, as in dynamically quantised graphs: such a model runs one text at a time.
    VARIANT = "variant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the probe found."""

    batch_class: BatchClass
    #: Lowest cosine of a text alone to the same text in a mixed batch.
    min_cosine: float
    tokens_per_s: float
    chars_per_token: float


#: Ordinary text of several languages, so that characters a token is what users see.
SENTENCES: Final = (
    "The river had risen during the night, and the lower fields were under water.",
    "Selamat pagi, apakah toko buku di jalan Diponegoro sudah buka hari ini?",
    "To reset the device, hold the power button for ten seconds until the light turns amber.",
    "Pemerintah daerah menyiapkan anggaran baru untuk memperbaiki jembatan yang rusak.",
    "She closed the account in March and moved the remaining balance to her savings.",
    "La réunion a été reportée à jeudi prochain en raison de la grève des trains.",
    "Der Vertrag verlängert sich automatisch um ein Jahr, wenn er nicht gekündigt wird.",
    "Every function returns a value, and every value has a type that can be checked.",
)


def probe_texts() -> list[str]:
    """Give texts of many lengths, from one word to more than most models read."""
    words = " ".join(SENTENCES).split()
    lengths = (1, 2, 3, 5, 8, 11, 12, 13, 17, 20, 26, 31, 40, 55, 70, 90, 97, 120, 160, 230, 400)
    return [" ".join(words[i % 7 :][:n] if n < 90 else (words * 6)[i : i + n]) for i, n in enumerate(lengths)]


def judge(alone: Floats, batched: Sequence[Floats]) -> tuple[BatchClass, float]:
    """Class a model by the vectors (n, dimension) of the same texts alone and in other companies."""
    cosines = [cosine(alone, other) for other in batched]
    worst = float(min(c.min() for c in cosines))
    if all(alone.tobytes() == other.tobytes() for other in batched):
        return BatchClass.EXACT, worst
    return (BatchClass.CLOSE if worst >= CLOSE_COSINE else BatchClass.VARIANT), worst


def cosine(a: Floats, b: Floats) -> Floats:
    """Give the cosine of each row of ``a`` with the same row of ``b``, (n,)."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(norms, 1e-12), dtype=np.float32)


def speed(run: Callable[[], int]) -> float:
    """Give tokens a second of ``run``, which gives the tokens it embedded: the median of three."""
    rates = []
    for _ in range(3):
        start_s = time.perf_counter()
        tokens = run()
        rates.append(tokens / (time.perf_counter() - start_s))
    return median(rates)


def load(folder: Path | None, key: str) -> Verdict | None:
    """Read an earlier verdict; None if there is none that can be believed."""
    if folder is None:
        return None
    try:
        values = json.loads((folder / f"{key}.json").read_text("utf-8"))
        if values.pop("probe") != PROBE_VERSION:
            return None
        verdict = Verdict(**{**values, "batch_class": BatchClass(values["batch_class"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return verdict if verdict.tokens_per_s > 0 and verdict.chars_per_token > 0 else None


def store(folder: Path | None, key: str, verdict: Verdict) -> None:
    """Keep a verdict for the next start; a folder that cannot be written costs only time."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{key}.json", json.dumps({**asdict(verdict), "probe": PROBE_VERSION}).encode())
    except OSError as error:
        log.warning("the probe's verdict cannot be kept: %s", error, extra={"action": "probe"})
