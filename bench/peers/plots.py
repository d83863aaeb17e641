"""Bars on a logarithmic scale, as SVG that needs no library to make and none to see."""

from __future__ import annotations

import math
from html import escape

from bench.figures import Figure
from bench.peers.figures import FIGURES, PLOTTED
from bench.peers.results import Race
from bench.report import number

WIDTH, LABELS, VALUES = 860, 230, 110
BAR, GAP, HEAD, BETWEEN = 16, 5, 26, 22
OURS, THEIRS, INK, FAINT = "#2563eb", "#94a3b8", "#334155", "#e2e8f0"


def svg(race: Race, setting: str) -> str:
    """One block of bars a figure, one bar a product: the shorter the better for times, the longer for rates, as each heading says."""
    parts: list[str] = []
    top = 8.0
    for name in PLOTTED:
        found = _values(race, setting, FIGURES[name])
        if found:
            parts.append(_block(FIGURES[name], found, top))
            top += HEAD + len(found) * (BAR + GAP) + BETWEEN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" font-family="sans-serif" font-size="12" fill="{INK}">'
    title = f"<title>{escape(f'Medians at the {setting} setting, logarithmic scales')}</title>"
    return "\n".join([head, title, f'<rect width="{WIDTH}" height="{top:.0f}" fill="white"/>', *parts, "</svg>\n"])


def _values(race: Race, setting: str, figure: Figure) -> list[tuple[str, str, float]]:
    found = [(name, race.measured(name, setting, figure.name)) for name in race.entered(setting)]
    return [(name, race.entrants[name].title, measured.median) for name, measured in found if measured and measured.median > 0]


def _block(figure: Figure, found: list[tuple[str, str, float]], top: float) -> str:
    floor = math.floor(math.log10(min(value for *_, value in found)))
    if math.log10(min(value for *_, value in found)) - floor < 0.1:
        floor -= 1
    ceiling = math.ceil(math.log10(max(value for *_, value in found)) + 0.01)
    scale = (WIDTH - LABELS - VALUES) / (ceiling - floor)
    bottom = top + HEAD + len(found) * (BAR + GAP)
    better = "less is better" if figure.better == "low" else "more is better"
    lines = [f'<text x="8" y="{top + 14:.0f}" font-weight="bold">{escape(figure.label)} <tspan font-weight="normal">({better})</tspan></text>']
    for decade in range(floor, ceiling + 1):
        x = LABELS + (decade - floor) * scale
        lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + HEAD - 4:.0f}" y2="{bottom:.0f}" stroke="{FAINT}"/>')
        lines.append(
            f'<text x="{x:.1f}" y="{bottom + 11:.0f}" font-size="9" text-anchor="middle" fill="{THEIRS}">{number(10.0**decade, figure)}</text>'
        )
    for index, (name, title, value) in enumerate(found):
        y = top + HEAD + index * (BAR + GAP)
        length = (math.log10(value) - floor) * scale
        colour = OURS if name == "jetflow" else THEIRS
        lines.append(f'<text x="{LABELS - 8}" y="{y + 12:.0f}" text-anchor="end">{escape(title)}</text>')
        lines.append(f'<rect x="{LABELS}" y="{y:.0f}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
        lines.append(f'<text x="{LABELS + length + 6:.1f}" y="{y + 12:.0f}">{number(value, figure)}</text>')
    return "\n".join(lines)
