"""Two programs measured side by side: their ratio, its interval, and whether it keeps a bar."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

CONFIDENCE = 0.95
RESAMPLES = 10_000

Program = Callable[[int], float]
"""Does its work once and returns what was measured; the argument numbers the round, 0 being the one to warm up."""


@dataclass(frozen=True)
class Bar:
    """What a ratio has to keep."""

    limit: float
    at_most: bool

    def __str__(self) -> str:
        return f"at {'most' if self.at_most else 'least'} {self.limit:g}"

    def keeps(self, ratio: float) -> bool:
        """Whether a ratio lies on the right side."""
        return ratio <= self.limit if self.at_most else ratio >= self.limit


@dataclass(frozen=True)
class Comparison:
    """Pairs of measurements, each taken one right after the other.

    Attributes:
        name: what is compared with what.
        ours, peers: the measurements of a pair stand at the same place.
        unit: of both.
        bar: for ours / peer; None where the ratio is only told.
    """

    name: str
    ours: Sequence[float]
    peers: Sequence[float]
    unit: str
    bar: Bar | None = None
    ratios: list[float] = field(init=False)

    def __post_init__(self) -> None:
        pairs = zip(self.ours, self.peers, strict=True)
        object.__setattr__(self, "ratios", [ours / peer for ours, peer in pairs])

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """The percentile bootstrap interval of the median (Efron 1979), from resamples with a fixed seed."""
        chance = random.Random(0)
        count = len(self.ratios)
        medians = sorted(statistics.median(chance.choices(self.ratios, k=count)) for _ in range(RESAMPLES))
        tail = round(RESAMPLES * (1 - CONFIDENCE) / 2)
        return medians[tail], medians[-1 - tail]

    @property
    def verdict(self) -> str:
        """`met` where the whole interval keeps the bar, `missed` where none of it does, else `undecided`."""
        if self.bar is None:
            return "no bar"
        kept = {self.bar.keeps(end) for end in self.interval}
        return "undecided" if len(kept) == 2 else "met" if kept == {True} else "missed"


@dataclass(frozen=True)
class Check:
    """Something that holds or does not, or that is only told (None); `detail` says what was found."""

    name: str
    holds: bool | None
    detail: str

    @property
    def verdict(self) -> str:
        return "no bar" if self.holds is None else "met" if self.holds else "missed"


def interleave(programs: Mapping[str, Program], rounds: int) -> dict[str, list[float]]:
    """Run the programs in turn for that many rounds, every other round in reverse order (ABBA), after one to warm up.

    Reversing lets neither program profit from a machine that grows slower or faster. Returns each program's
    measurements in the order of the rounds.
    """
    measured: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name in programs if number % 2 else reversed(list(programs)):
            gc.collect()  # what one program left behind is not for the next one to clear away
            value = programs[name](number)
            if number:
                measured[name].append(value)
    return measured
