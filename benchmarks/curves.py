"""Lines over a logarithmic axis: an SVG for the docs. Pure: no I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 340, 52, 34, 210, 44
COLOURS = ("#1a7f5a", "#7d95b5", "#b4552d", "#7a5ba8", "#8a7a1f", "#4a4a4a", "#c05c8e", "#2f8fa3")
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
STYLE = (
    "text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;fill:#24292f;font-size:12px}"
    ".title{font-size:14px;font-weight:600}.caption{font-size:11px;fill:#6e7781}"
)


def svg(lines: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x: str, caption: str = "") -> str:
    """Draw each line, whose values are shares of 1, over the logarithm of its first coordinates."""
    most = max(point for line in lines.values() for point, _ in line)

    def place(point: float, share: float) -> tuple[float, float]:
        across = math.log(point) / math.log(most)
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="0" y="16" class="title">{escape(title)}</text>']
    for share in STEPS:
        (start, y), (end, _) = place(1, share), place(most, share)
        parts.append(f'<line x1="{start:.0f}" y1="{y:.1f}" x2="{end:.0f}" y2="{y:.1f}" stroke="#d8dee4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.2f}</text>')
    for power in range(int(math.log10(most)) + 1):
        across, base = place(10**power, 0)
        parts.append(f'<text x="{across:.0f}" y="{base + 18:.0f}" text-anchor="middle">{10**power:,}</text>')
    middle, base = place(math.sqrt(most), 0)
    parts.append(f'<text x="{middle:.0f}" y="{base + 36:.0f}" text-anchor="middle">{escape(x)}</text>')
    for n, (name, line) in enumerate(lines.items()):
        colour, dash = COLOURS[n % len(COLOURS)], "" if n < len(COLOURS) else ' stroke-dasharray="5 3"'
        points = " ".join(f"{across:.1f},{y:.1f}" for across, y in (place(*point) for point in line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        y = TOP + 18 * n + 8
        parts.append(
            f'<line x1="{WIDTH - 196}" y1="{y}" x2="{WIDTH - 172}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(f'<text x="{WIDTH - 166}" y="{y + 4}">{escape(name)}</text>')
    parts.append(f'<text x="0" y="{HEIGHT - 4}" class="caption">{escape(caption)}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 0 {WIDTH + 24} {HEIGHT}" width="{WIDTH + 24}" '
        f'height="{HEIGHT}">\n<style>{STYLE}</style>\n'
        f'<rect x="-12" y="0" width="{WIDTH + 24}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )
