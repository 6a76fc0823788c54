"""Types of arguments that several commands take."""

from __future__ import annotations

import argparse
import math

HIGHEST_PRIORITY = 127  # of DataJoint's jobs


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    return _at_least(1, text)


def at_least_zero(text: str) -> int:
    """A whole number from 0."""
    return _at_least(0, text)


def priority(text: str) -> int:
    """A whole number from 0 to 127."""
    value = _at_least(0, text)
    if value > HIGHEST_PRIORITY:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {HIGHEST_PRIORITY}")
    return value


def seconds(text: str) -> float:
    """A number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return value


def _at_least(low: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low}")
    return value
