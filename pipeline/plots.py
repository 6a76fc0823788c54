"""Drawings of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Curve = tuple[Sequence[int], Sequence[float]]
"""Epochs, counted from 1, and the values in them."""
RESOLUTION = 150  # dots per inch of a picture
FEW = 3  # points that a line alone does not show
LEGEND_INSIDE = 6  # curves


def loss_history(title: str, training: Sequence[float], validation: Sequence[float]) -> Any:
    """Training and validation loss over epochs, counted from 1; returns matplotlib's Axes."""
    from matplotlib import pyplot

    _, axes = pyplot.subplots()
    losses = {"training": training, "validation": validation}
    draw(axes, title, "loss", {name: (range(1, len(values) + 1), values) for name, values in losses.items()})
    return axes


def picture(path: Path, title: str, label: str, curves: Mapping[str, Curve]) -> None:
    """Write curves on one axis as PNG, whatever matplotlib's backend is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.subplots(), title, label, curves)
    figure.savefig(path, dpi=RESOLUTION, format="png")


def draw(axes: Any, title: str, label: str, curves: Mapping[str, Curve]) -> None:
    """Draw curves over epochs on one axis."""
    from matplotlib.ticker import MaxNLocator

    for name, (epochs, values) in curves.items():
        # A label is no formula: a dollar sign in it must not be read as one; one that begins with _ is left out.
        shown = name.replace("$", r"\$")
        axes.plot(epochs, values, label=f" {shown}" if shown.startswith("_") else shown, marker=_marker(values))
    axes.set(title=title.replace("$", r"\$"), xlabel="epoch", ylabel=label.replace("$", r"\$"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if curves:
        axes.legend(fontsize="small" if len(curves) > LEGEND_INSIDE else None)


def _marker(values: Sequence[float]) -> str | None:
    return "o" if len(values) < FEW else None
