"""Types of arguments that several commands take."""

from __future__ import annotations

import argparse


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    return _at_least(1, text)


def at_least_zero(text: str) -> int:
    """A whole number from 0."""
    return _at_least(0, text)


def _at_least(low: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low}")
    return value
