"""Durations as people read them."""

from __future__ import annotations

UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
TWO_FIGURES = 10.0


def lasting(seconds: float) -> str:
    """Such as ``42 s``, ``3.4 min`` and ``12 h``: two figures are enough."""
    for length, unit in UNITS:
        if seconds >= length:
            number = seconds / length
            return f"{number:.1f} {unit}" if number < TWO_FIGURES else f"{number:.0f} {unit}"
    return f"{seconds:.0f} s"
