"""When a measured ratio keeps its bar."""

from __future__ import annotations

import pytest

from benchmarks.comparison import Bar, Comparison, interleave

STEADY = [1.0, 1.01, 0.99] * 5


@pytest.mark.parametrize(
    ("bar", "verdict"),
    [
        (Bar(1.05, at_most=True), "met"),
        (Bar(0.95, at_most=True), "missed"),
        (Bar(1.0, at_most=True), "undecided"),
        (Bar(0.95, at_most=False), "met"),
        (Bar(1.05, at_most=False), "missed"),
        (Bar(1.0, at_most=False), "undecided"),
        (None, "no bar"),
    ],
)
def test_the_whole_interval_decides(bar: Bar | None, verdict: str) -> None:
    assert Comparison("work", STEADY, [1.0] * 15, "s", bar).verdict == verdict


def test_pairs_are_compared_and_not_medians() -> None:
    """Both programs slow down threefold: their ratio stays."""
    slowing = [1.0, 2.0, 3.0]
    comparison = Comparison("work", [2 * seconds for seconds in slowing], slowing, "s")
    assert comparison.ratio == 2
    assert comparison.interval == (2, 2)


def test_programs_take_turns_in_alternating_order() -> None:
    order: list[str] = []

    def program(name: str):
        return lambda number: order.append(f"{name}{number}") or float(number)

    measured = interleave({"a": program("a"), "b": program("b")}, rounds=3)
    assert order == ["b0", "a0", "a1", "b1", "b2", "a2", "a3", "b3"]
    assert measured == {"a": [1, 2, 3], "b": [1, 2, 3]}
