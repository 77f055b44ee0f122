"""Speed as horizontal bars, one group a corpus: an SVG for the README. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from figures import Figure

CORPORA = ("mixed", "short")
TITLES = {"mixed": "mixed: 2 to 600 tokens, half of them under 30", "short": "short: 3 to 14 words"}

WIDTH, LABEL_WIDTH, BAR_HEIGHT, GAP = 760, 250, 20, 7
OURS, CEILING, OTHERS = "#1a7f5a", "#b9b9b9", "#7d95b5"


def bars(figures: Sequence[Figure], corpus: str) -> list[tuple[str, float]]:
    """Return systems and their texts a second, ours first, then the others by speed."""
    rates = [f for f in figures if f.question == "throughput" and f.unit == "texts/s" and f.corpus == corpus]
    ours = [(f"{f.name}, {f.precision}", f.value) for f in rates if f.name == "embedmill"]
    others = [("raw ONNX Runtime, the ceiling", f.value) for f in rates if f.name == "ceiling"]
    peers = sorted(((f.name, f.value) for f in rates if f.name not in ("embedmill", "ceiling")), key=lambda b: -b[1])
    return [*ours, *others, *peers]


def svg(figures: Sequence[Figure], caption: str) -> str:
    """Draw the bars of every corpus."""
    parts, y = [], 26
    for corpus in CORPORA:
        group = bars(figures, corpus)
        if not group:
            continue
        parts.append(f'<text x="0" y="{y}" class="title">{escape(TITLES[corpus])}, texts/s</text>')
        y += 14
        room = WIDTH - LABEL_WIDTH - 70
        longest = max(rate for _, rate in group)
        for name, rate in group:
            colour = OURS if name.startswith("embedmill") else CEILING if "ceiling" in name else OTHERS
            length = max(1.0, room * rate / longest)
            parts.append(f'<text x="{LABEL_WIDTH - 8}" y="{y + 15}" class="name">{escape(name)}</text>')
            parts.append(
                f'<rect x="{LABEL_WIDTH}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}" rx="2" fill="{colour}"/>'
            )
            number = f"{rate:,.0f}"
            parts.append(f'<text x="{LABEL_WIDTH + length + 6:.1f}" y="{y + 15}" class="number">{number}</text>')
            y += BAR_HEIGHT + GAP
        y += 30
    parts.append(f'<text x="0" y="{y - 12}" class="caption">{escape(caption)}</text>')
    style = (
        "text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;fill:#24292f}"
        ".title{font-size:14px;font-weight:600}.name{font-size:12.5px;text-anchor:end}"
        ".number{font-size:12.5px}.caption{font-size:11px;fill:#6e7781}"
    )
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 0 {WIDTH + 24} {y}" width="{WIDTH + 24}" height="{y}">\n'
        f"<style>{style}</style>\n"
        f'<rect x="-12" y="0" width="{WIDTH + 24}" height="{y}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )
