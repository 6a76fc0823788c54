"""A training drawn in a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .plain_view import PlainView
from .refresher import Refresher
from .shared_terminal import SharedTerminal
from .terminal_frame import TerminalFrame, closing_line
from .training_state import TrainingState
from .value_format import ValueFormats

if TYPE_CHECKING:
    from rich.live import Live


class TerminalView:
    """Draws on standard error while a training runs, and leaves one line of it behind.

    Where another process shows trainings on the same terminal, plain lines are written instead: drawings of two would
    overwrite each other.
    """

    def __init__(self, formats: ValueFormats, window: int) -> None:
        self._formats = formats
        self._frame = TerminalFrame(formats, window)
        self._plain = PlainView(formats)
        self._live: Live | None = None
        self._refresher: Refresher | None = None
        self._terminal: SharedTerminal | None = None

    def begin(self, state: TrainingState) -> None:
        from rich.console import Console
        from rich.live import Live

        self._plain.begin(state)
        self._terminal = SharedTerminal(sys.stderr)
        if not self._terminal.alone():
            return
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()
        self._draw(state)
        self._refresher = Refresher(lambda: self._draw(state))

    def moved(self, state: TrainingState) -> None:
        if self._live is None:
            self._plain.moved(state)

    def epoch(self, state: TrainingState) -> None:
        self.moved(state)

    def end(self, state: TrainingState) -> None:
        if self._refresher is not None:
            self._refresher.stop()
            self._refresher = None
        self._stop()
        if self._terminal is not None:
            self._terminal.close()
        print(closing_line(state, self._formats), file=sys.stderr, flush=True)

    def _draw(self, state: TrainingState) -> None:
        if self._live is None:
            return
        if self._terminal is not None and not self._terminal.alone():
            self._stop()
            return
        size = self._live.console.size
        self._live.update(self._frame.render(state, size.width, size.height), refresh=True)

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()
