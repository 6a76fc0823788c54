"""A training as plain lines at a sensible pace."""

from __future__ import annotations

import sys

from .pace import FIRST, Pace
from .terminal_frame import closing_line, pace, position, values_line
from .training_state import TrainingState
from .value_format import ValueFormats


class PlainView:
    """Prints to standard error: now and then a line while a training lasts, and one when it ends; nothing of those that
    are over in a few seconds, of which a script may have thousands."""

    def __init__(self, formats: ValueFormats) -> None:
        self._formats = formats
        self._pace = Pace()

    def begin(self, state: TrainingState) -> None:
        self._pace = Pace()

    def moved(self, state: TrainingState) -> None:
        if self._pace.due():
            _print(progress_line(state, self._formats))

    def epoch(self, state: TrainingState) -> None:
        self.moved(state)

    def end(self, state: TrainingState) -> None:
        if state.seconds >= FIRST:
            _print(closing_line(state, self._formats))


def progress_line(state: TrainingState, formats: ValueFormats) -> str:
    """How far a training is, in a line that begins with its title."""
    told = [position(state), values_line(state, formats), pace(state)]
    return f"{state.training.title}: {', '.join(part for part in told if part)}"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
