"""What a command shows again and again: its option, the pace of its looks, and how they are drawn."""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from pipeline.cli.arguments import seconds
from pipeline.cli.context import is_terminal, print_json

SHORTEST = 0.1  # s between two looks

T = TypeVar("T")


def add_watch_argument(parser: argparse.ArgumentParser, pace: float, when: str = "every S seconds") -> None:
    """``--watch [S]``: None where it is not given, `pace` seconds where it is given without a number.

    Parameters
    ----------
    when : in the help, when it is shown again.
    """
    parser.add_argument(
        "--watch",
        type=seconds,
        nargs="?",
        const=pace,
        metavar="S",
        help=f"show it again {when} ({pace:.0f}), until Ctrl-C",
    )


def paced(look: Callable[[], T], pace: float) -> Iterator[T]:
    """What is seen now, and again every `pace` seconds."""
    while True:
        yield look()
        time.sleep(max(SHORTEST, pace))


def watch(looks: Iterable[Mapping[str, Any]], draw: Callable[[Mapping[str, Any]], None], *, as_json: bool) -> int:
    """Show looks until there are no more or Ctrl-C ends it, which is how it is meant to end; the exit code."""
    with suppress(KeyboardInterrupt):
        show(looks, draw, as_json=as_json)
    return 0


def show(looks: Iterable[Mapping[str, Any]], draw: Callable[[Mapping[str, Any]], None], *, as_json: bool) -> None:
    """Show looks until there are no more: drawn over each other on a terminal, else one after the other with its time.

    Parameters
    ----------
    draw : prints a look on standard output.
    as_json : a line of JSON for each instead, with its ``time``.
    """
    if as_json or not is_terminal():
        for look in looks:
            now = datetime.now(UTC)
            if as_json:
                print_json({"time": now, **look}, indent=None)
            else:
                print(f"{now:%Y-%m-%d %H:%M:%S} UTC")
                draw(look)
                print(flush=True)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False, vertical_overflow="crop") as live:
        for look in looks:
            with redirect_stdout(io.StringIO()) as drawn:
                draw(look)
            live.update(Text(drawn.getvalue().rstrip(), no_wrap=True, overflow="ellipsis"), refresh=True)
