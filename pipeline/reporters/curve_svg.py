"""Curves as SVG that stands in a page: its colours are those of the page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 40  # around the axes
MOST_POINTS = 800  # of a curve: more cannot be told apart
TICKS = 5
HUES = ("#3b78c3", "#d9822b", "#3a9a5b", "#c0504d", "#8064a2", "#2aa1a9", "#b5651d", "#d16ba5", "#7f7f3f", "#6b7a8f")
"""Colours that stand out on white and on black."""

Curve = tuple[Sequence[int], Sequence[float]]
"""Epochs and the values in them."""


def color(number: int) -> str:
    """The colour of a curve."""
    return HUES[number % len(HUES)]


def draw(curves: Mapping[str, Curve], label: str, *, colors: Mapping[str, str] | None = None) -> str:
    """An ``<svg>`` with the curves on one axis; empty where none has a finite value.

    Parameters
    ----------
    curves : name, which a pointer over the curve shows, to its points.
    label : what the values are, and the text for who cannot see it.
    colors : of the curves; by default `color` of their places.
    """
    points = {name: _thinned(curve) for name, curve in curves.items()}
    every = [point for kept in points.values() for point in kept]
    if not every:
        return ""
    epochs, values = zip(*every, strict=True)
    across = _Scale(min(epochs), max(epochs), LEFT, WIDTH - RIGHT)
    up = _Scale(min(values), max(values), HEIGHT - BOTTOM, TOP)
    lines = [
        _line(name, kept, across, up, (colors or {}).get(name) or color(number))
        for number, (name, kept) in enumerate(points.items())
        if kept
    ]
    name = html.escape(label)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}" font-size="12" fill="currentColor" '
        f'style="max-width:100%;height:auto">{_axes(across, up)}{"".join(lines)}'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">epoch</text>'
        f'<text x="14" y="{(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(TOP + HEIGHT - BOTTOM) / 2})">{name}</text></svg>'
    )


class _Scale:
    """From values to places; a single value stands in the middle."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._high, self._start, self._end = low, high, start, end

    def place(self, value: float) -> float:
        span = self._high - self._low
        share = (value - self._low) / span if 0 < span < math.inf else 0.5
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self, *, whole: bool = False) -> list[float]:
        """Some round values between the lowest and the highest."""
        from matplotlib.ticker import MaxNLocator

        if self._low == self._high:
            return [self._low]
        found = MaxNLocator(TICKS, steps=[1, 2, 5, 10], integer=whole).tick_values(self._low, self._high)
        return [float(value) for value in found if self._low <= value <= self._high]


def _thinned(curve: Curve) -> list[tuple[int, float]]:
    kept = [point for point in zip(list(curve[0]), curve[1], strict=False) if math.isfinite(point[1])]
    return kept if len(kept) <= MOST_POINTS else [*kept[:: len(kept) // MOST_POINTS + 1], kept[-1]]


def _axes(across: _Scale, up: _Scale) -> str:
    parts = []
    for value in up.ticks():
        y = up.place(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".15"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.5g}</text>')
    for value in across.ticks(whole=True):
        x = across.place(value)
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    return "".join(parts)


def _line(name: str, kept: Sequence[tuple[int, float]], across: _Scale, up: _Scale, stroke: str) -> str:
    title = f"<title>{html.escape(name)}</title>"
    if len(kept) == 1:
        epoch, value = kept[0]
        return f'<circle cx="{across.place(epoch)}" cy="{up.place(value)}" r="3" fill="{stroke}">{title}</circle>'
    places = " ".join(f"{across.place(epoch)},{up.place(value)}" for epoch, value in kept)
    return f'<polyline points="{places}" fill="none" stroke="{stroke}" stroke-width="2">{title}</polyline>'
