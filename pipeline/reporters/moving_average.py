"""The mean of the newest values."""

from __future__ import annotations

import math
from collections.abc import Sequence


def moving_average(values: Sequence[float], window: int) -> float:
    """The mean of the last `window` values, of fewer where there are not so many; NaN and infinity are left out.

    NaN where nothing is left.
    """
    kept = [value for value in values[-window:] if math.isfinite(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan
