"""Drawings of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def loss_history(title: str, training: Sequence[float], validation: Sequence[float]) -> Any:
    """Training and validation loss over epochs, counted from 1; returns matplotlib's Axes."""
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    _, axes = pyplot.subplots()
    for label, values in (("training", training), ("validation", validation)):
        axes.plot(range(1, len(values) + 1), values, label=label, marker="o" if len(values) < 3 else None)
    axes.set(title=title, xlabel="epoch", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return axes
