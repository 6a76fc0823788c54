"""`trainloom watch`: follow one training, wherever it runs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import seconds
from pipeline.cli.context import is_terminal, open_session, print_json

if TYPE_CHECKING:
    from pipeline.followed_training import FollowedTraining, Look
    from pipeline.settings import Settings

INTERVAL = 2.0  # s between two looks
SHORTEST = 0.1  # s
LAST_EVENTS = 10.0  # s after the end in which the last events may come: workers send them about once a second
EARLIER = 10  # epochs from before that are printed at the beginning
FAILED = 1


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "watch",
        help="follow one training, wherever it runs",
        description="Follow one training, wherever it runs: its curve, its last values and its state. Begins before "
        "the training does, and goes on when another worker resumes it. Exit codes: 0 the training has finished, 1 it "
        "was set aside, cancelled or deleted, 130 interrupted.",
    )
    parser.add_argument("key", metavar="KEY", help="the key of a task, or its first characters")
    parser.add_argument(
        "--interval",
        type=seconds,
        default=INTERVAL,
        metavar="S",
        help=f"seconds between two looks ({INTERVAL:.0f})",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON per event and change of state")
    parser.set_defaults(action=_watch)


def _watch(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        from pipeline.followed_training import FollowedTraining

        followed = FollowedTraining.of(session.events, args.key)
        looks = _looks(followed, max(SHORTEST, args.interval))
        if args.json:
            last = _print_json_lines(followed, looks)
        elif is_terminal():
            last = _draw(followed, looks, session.settings)
        else:
            last = _print_lines(followed, looks, session.settings)
    return _told_end(last)


def _looks(followed: FollowedTraining, interval: float) -> Iterator[Look]:
    """One look after the other until the training has ended and its last events are there; one that had ended before,
    and of which there are none any more, is not waited for."""
    look = followed.look()
    tested = _has_test(look)
    late = not look.ended or bool(followed.curve.epochs)  # events may still come
    yield look
    while not look.ended:
        time.sleep(interval)
        look = followed.look()
        tested = tested or _has_test(look)
        yield look
    limit = time.monotonic() + LAST_EVENTS
    while look.state == "finished" and late and not tested and time.monotonic() < limit:
        time.sleep(min(interval, 1.0))
        look = followed.look()
        tested = _has_test(look)
        yield look
    if look.state == "finished":
        followed.complete()
        yield replace(look, events=[])


def _has_test(look: Look) -> bool:
    return any(event["kind"] == "testing" for event in look.events)


def _told_end(last: Look) -> int:
    """The exit code; what went wrong is said."""
    if last.state == "finished":
        return 0
    print(f"error: the training did not finish: {last.text()}", file=sys.stderr)
    return FAILED


def _print_json_lines(followed: FollowedTraining, looks: Iterator[Look]) -> Look:
    told = ""
    for look in looks:
        for event in look.events:
            print_json(event, indent=None)
        state = look.text()
        if state != told:
            told = state
            row = look.row or {}
            worker = look.worker or {}
            print_json(
                {
                    "task": followed.key,
                    "kind": "state",
                    "time": datetime.now(UTC),
                    "state": row.get("state", "deleted"),
                    "attempts": row.get("attempts"),
                    "message": row.get("message"),
                    **{name: worker.get(name) for name in ("host", "pid", "pod")},
                },
                indent=None,
            )
    return look


def _print_lines(followed: FollowedTraining, looks: Iterator[Look], settings: Settings) -> Look:
    """A line for every change of state and for every epoch; of those that lay behind only the last ones."""
    from pipeline.reporters.value_format import ValueFormats

    formats = ValueFormats(settings.value_formats)
    print(followed.state.training.title, flush=True)
    told, printed = "", -1
    for look in looks:
        if look.text() != told:
            told = look.text()
            print(told, flush=True)
        epochs = [epoch for epoch in followed.curve.whole(ended=look.ended) if epoch > printed]
        for epoch in epochs[-EARLIER:] if printed < 0 else epochs:
            values = followed.curve.epochs[epoch].items()
            listed = ", ".join(
                f"{name} {formats.text(name, value)}" for name, value in values if formats.is_shown(name)
            )
            print(f"epoch {epoch}/{followed.state.max_epoch}: {listed}", flush=True)
        printed = max([printed, *epochs])
    return look


def _draw(followed: FollowedTraining, looks: Iterator[Look], settings: Settings) -> Look:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from pipeline.reporters.terminal_frame import TerminalFrame
    from pipeline.reporters.value_format import ValueFormats

    frame = TerminalFrame(ValueFormats(settings.value_formats), settings.moving_average)
    with Live(console=Console(), auto_refresh=False) as live:
        for look in looks:
            size = live.console.size
            drawn = frame.render(followed.state, size.width, size.height - 1)
            live.update(Group(drawn, Text(look.text(), style="dim")), refresh=True)
    return look
