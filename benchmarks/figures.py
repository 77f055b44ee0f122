"""Figures, the targets of the design they are held against, and the table and JSON they make. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number that was measured."""

    #: The script that asks for it.
    question: str
    #: What it is, as in "embedmill ÷ ceiling".
    name: str
    #: Of the rounds: their median, lowest and highest.
    value: float
    low: float
    high: float
    #: As in "texts/s"; "×" for ratios.
    unit: str
    #: Empty where it does not matter.
    corpus: str = ""
    precision: str = ""
    #: Bound of its own, where the design gives one that depends on the same run.
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A bound of the design."""

    bound: float
    at_least: bool = True

    def is_met(self, value: float) -> bool:
        """Return whether a value is within it."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:.3g}"


#: (figure, corpus, precision) → bound.
TARGETS: dict[tuple[str, str, str], Target] = {
    ("engine ÷ ceiling", "mixed", "fp32"): Target(0.95),
    ("engine ÷ ceiling", "short", "fp32"): Target(0.95),
    ("embedmill ÷ ceiling", "mixed", "fp32"): Target(0.90),
    ("embedmill ÷ ceiling", "short", "fp32"): Target(0.90),
    ("embedmill ÷ fastembed, tuned", "mixed", "fp32"): Target(3.5),
    ("embedmill ÷ fastembed, tuned", "short", "fp32"): Target(1.8),
    ("embedmill ÷ fastembed, tuned", "mixed", "bf16"): Target(6.5),
    ("embedmill ÷ fastembed, tuned", "short", "bf16"): Target(3.3),
    ("embedmill ÷ fastembed, tuned", "mixed", "int8"): Target(7),
    ("embedmill ÷ fastembed, tuned", "short", "int8"): Target(3.3),
    ("embedmill ÷ sentence-transformers, OpenVINO", "mixed", "bf16"): Target(1.5),
    ("embedmill ÷ sentence-transformers, OpenVINO", "short", "bf16"): Target(1.35),
    ("embedmill ÷ hand-written worker", "mixed", "fp32"): Target(6),
    ("embedmill ÷ hand-written worker", "short", "fp32"): Target(2.5),
    ("one text a request ÷ hand-written worker", "mixed", "fp32"): Target(1.2),
    ("one text a request ÷ hand-written worker", "short", "fp32"): Target(1.8),
    ("one text a request ÷ hand-written worker", "mixed", "bf16"): Target(2),
    ("one text a request ÷ hand-written worker", "short", "bf16"): Target(2),
    ("one text a request ÷ hand-written worker", "mixed", "int8"): Target(2),
    ("one text a request ÷ hand-written worker", "short", "int8"): Target(2),
    ("reindex ÷ engine", "short", "fp32"): Target(0.90),
    ("reindex, client's memory", "short", "fp32"): Target(150, at_least=False),
    ("reindex, Redis's memory", "short", "fp32"): Target(100, at_least=False),
    ("reindex, unchanged", "short", "fp32"): Target(50_000),
    ("gateway ÷ FastAPI with fastembed", "short", "fp32"): Target(2),
    ("gateway ÷ FastAPI with fastembed", "mixed", "fp32"): Target(1),
    ("gateway ÷ FastAPI with fastembed", "short", "int8"): Target(4),
    ("gateway ÷ FastAPI with fastembed", "mixed", "int8"): Target(2.5),
    ("gateway's p99 ÷ FastAPI with fastembed's", "short", "fp32"): Target(1, at_least=False),
    ("gateway's p99 ÷ FastAPI with fastembed's", "mixed", "fp32"): Target(1, at_least=False),
    ("gateway's p99 ÷ FastAPI with fastembed's", "short", "int8"): Target(1, at_least=False),
    ("gateway's p99 ÷ FastAPI with fastembed's", "mixed", "int8"): Target(1, at_least=False),
    ("gateway, CPU a request", "short", "fp32"): Target(0.5, at_least=False),
    ("100 children ÷ their sum", "", ""): Target(0.95),
    ("1,000 children simulated ÷ their engines, 10 Gbit/s, 0.25 s a chunk", "", "fp32"): Target(0.90),
    ("memory, highest", "", "fp32"): Target(260, at_least=False),
    ("memory, highest", "", "int8"): Target(220, at_least=False),
    ("memory, slope", "", "fp32"): Target(1, at_least=False),
    ("start to ready", "", "fp32"): Target(2, at_least=False),
    ("killed child replaced", "", "fp32"): Target(0.2, at_least=False),
}


def of_rounds(values: Sequence[float], **what: Any) -> Figure:
    """Make a figure of the rounds' values."""
    return Figure(value=median(values), low=min(values), high=max(values), **what)


def ratios(ours: Sequence[float], theirs: Sequence[float], **what: Any) -> Figure:
    """Make a figure of ratios, each taken within one round."""
    return of_rounds([a / b for a, b in zip(ours, theirs, strict=True)], unit="×", **what)


def target_of(figure: Figure) -> Target | None:
    """Return the bound that a figure is held against."""
    if figure.bound is not None:
        return Target(figure.bound, at_least=False)
    return TARGETS.get((figure.name, figure.corpus, figure.precision))


def table(figures: Sequence[Figure]) -> str:
    """Lay out figures as a Markdown table; a figure outside its target is marked."""
    lines = [
        "| | texts | precision | median | lowest to highest | target |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for figure in figures:
        target = target_of(figure)
        verdict = "" if target is None else f"{target}{'' if target.is_met(figure.value) else ' **missed**'}"
        unit = "" if figure.unit == "×" else f" {figure.unit}"
        spread = f"{_number(figure.low)} to {_number(figure.high)}"
        cells = (figure.name, figure.corpus, figure.precision, f"{_number(figure.value)}{unit}", spread, verdict)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(figures: Sequence[Figure], machine: dict[str, Any], skipped: dict[str, str]) -> dict[str, Any]:
    """Return everything as it is written to the JSON file."""
    rows = []
    for figure in figures:
        target = target_of(figure)
        held = {} if target is None else {"target": str(target), "met": target.is_met(figure.value)}
        rows.append({key: value for key, value in asdict(figure).items() if value not in ("", None)} | held)
    return {"machine": machine, "skipped": skipped, "figures": rows}


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
