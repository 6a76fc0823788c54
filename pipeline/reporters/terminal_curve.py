"""Curves drawn with characters."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence

COLORS = ("cyan", "orange", "green", "magenta")
"""Of the curves in turn."""
STYLES = ("cyan", "yellow", "green", "magenta")
"""The same as rich names them."""
MOST_POINTS = 600  # of a curve: more cannot be told apart
LEAST_WIDTH = 20
_drawing = threading.Lock()  # plotext has one figure per process

Curve = tuple[Sequence[int], Sequence[float]]
"""Epochs and the values in them."""


def draw(curves: Mapping[str, Curve], width: int, height: int) -> str:
    """The curves on one axis, as lines with colours (ANSI); empty where no curve has a finite value.

    Parameters
    ----------
    curves : label to its points, in the order of `COLORS`.
    width, height : characters and lines of the whole drawing.
    """
    points = {label: _finite(curve) for label, curve in curves.items()}
    if width < LEAST_WIDTH or not any(epochs for epochs, _ in points.values()):
        return ""
    from plotext import figure, marker

    with _drawing:
        figure.clear.all()
        figure.theme("colorless")
        figure.legend(False)
        figure.plot_size(width, height)
        for number, (epochs, values) in enumerate(points.values()):
            if epochs:
                dot = marker("braille", COLORS[number % len(COLORS)])
                figure.draw(figure.signal(list(epochs), list(values), marker=dot).lines())
        every = sorted({epoch for epochs, _ in points.values() for epoch in epochs})
        figure.ruler(0, 0).ticks(_ticks(every[0], every[-1]))
        return str(figure.build().string())


def _finite(curve: Curve) -> Curve:
    """Its finite points; what is being appended meanwhile is left out."""
    kept = [point for point in zip(list(curve[0]), curve[1], strict=False) if math.isfinite(point[1])]
    if len(kept) > MOST_POINTS:
        kept = [*kept[:: len(kept) // MOST_POINTS + 1], kept[-1]]
    return [epoch for epoch, _ in kept], [value for _, value in kept]


def _ticks(first: int, last: int) -> list[int]:
    """Up to five whole numbers from the first to the last."""
    count = min(5, last - first + 1)
    return [round(first + (last - first) * number / max(1, count - 1)) for number in range(count)]
