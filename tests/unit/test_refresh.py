"""What commands show again and again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pipeline.cli import refresh


def draw(look: Mapping[str, Any]) -> None:
    print(f"looked {look['number']} times")


def numbered(last: int) -> Iterator[dict[str, int]]:
    return ({"number": number + 1} for number in range(last))


@pytest.mark.parametrize(
    ("arguments", "pace"), [([], None), (["--watch"], 7.0), (["--watch", "0.5"], 0.5), (["--watch", "0"], 0.0)]
)
def test_the_option_says_whether_and_how_often(arguments: list[str], pace: float | None) -> None:
    parser = argparse.ArgumentParser()
    refresh.add_watch_argument(parser, 7.0)
    assert parser.parse_args(arguments).watch == pace
    assert "show it again every S seconds (7), until Ctrl-C" in " ".join(parser.format_help().split())


def test_where_nobody_looks_each_has_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert refresh.watch(numbered(2), draw, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.endswith(" UTC")] == ["looked 1 times", "", "looked 2 times", ""]
    refresh.show(numbered(2), draw, as_json=True)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [look["number"] for look in found] == [1, 2]
    assert all("time" in look for look in found)


def test_on_a_terminal_it_is_drawn_in_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(refresh, "is_terminal", lambda: True)
    refresh.show(numbered(3), draw, as_json=False)
    # Where it does not go to a terminal after all, only the last look is left.
    assert capsys.readouterr().out.strip() == "looked 3 times"


def test_an_interruption_ends_what_is_watched() -> None:
    def interrupted() -> Iterator[dict[str, int]]:
        yield {"number": 1}
        raise KeyboardInterrupt

    assert refresh.watch(interrupted(), draw, as_json=True) == 0
    with pytest.raises(KeyboardInterrupt):
        refresh.show(interrupted(), draw, as_json=True)


def test_one_look_follows_the_other() -> None:
    looks = iter((1, 2, 3))
    assert [look for look, _ in zip(refresh.paced(lambda: next(looks), 0.0), range(2), strict=False)] == [1, 2]
