"""The trainings of several worker processes, drawn by the one that started them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .choice import Kind
from .duration import lasting
from .pace import Pace
from .pool_view import Snapshot
from .refresher import Refresher
from .shared_terminal import SharedTerminal
from .terminal_frame import REGULARIZATION, few
from .value_format import ValueFormats

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table

MOST_COLUMNS = 3  # values that a table shows; lines show all
SHOWN = 8  # characters of a key
BAR, GAP = 12, 3  # characters of a bar, and between two columns: padding and a line


class PoolDisplay:
    """A table of the trainings that run, below the lines that are printed; plain lines where there is no terminal or
    another process shows trainings on it too."""

    def __init__(self, kind: Kind, formats: ValueFormats, total: int) -> None:
        self._kind = kind
        self._formats = formats
        self._done, self._total = 0, total
        self._began = time.monotonic()
        self._running: dict[str, Snapshot] = {}
        self._paces: dict[str, Pace] = {}
        self._changing = threading.RLock()  # the drawing of a side thread and the lines of the main one
        self._live: Live | None = None
        self._terminal: SharedTerminal | None = None
        self._refresher: Refresher | None = None

    def start(self) -> None:
        """Begin to draw, where there is a terminal."""
        if self._kind != "terminal":
            return
        self._terminal = SharedTerminal(sys.stdout)
        if not self._terminal.alone():
            return
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(), auto_refresh=False, transient=True)
        self._live.start()
        self._draw()
        self._refresher = Refresher(self._draw)

    def stop(self) -> None:
        """Leave only the printed lines. Stopping twice is harmless."""
        if self._refresher is not None:
            self._refresher.stop()
            self._refresher = None
        self._end_drawing()
        if self._terminal is not None:
            self._terminal.close()

    def update(self, told: Snapshot) -> None:
        """A training has moved."""
        self._running[told.key] = told
        pace = self._paces.setdefault(told.key, Pace())
        if self._live is None and self._kind != "none" and pace.due():
            self.print(progress_line(told, self._formats))

    def ended(self, key: str) -> None:
        """A training runs no more, however it ended."""
        self._running.pop(key, None)
        self._paces.pop(key, None)

    def count(self, done: int, total: int) -> None:
        """So many of so many tasks are done with."""
        self._done, self._total = done, total

    def print(self, line: str) -> None:
        """Write a line that stays."""
        with self._changing:
            if self._live is None:
                print(line, flush=True)
            else:
                self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> None:
        with self._changing:
            if self._live is None:
                return
            if self._terminal is not None and not self._terminal.alone():
                self._end_drawing()
            else:
                self._live.update(self._frame(self._live.console.width), refresh=True)

    def _end_drawing(self) -> None:
        with self._changing:
            live, self._live = self._live, None
            if live is not None:
                live.stop()

    def _frame(self, width: int) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = Table.grid(padding=(0, 1))
        drawn = ProgressBar(total=max(1, self._total), completed=self._done, width=40)
        seconds = lasting(time.monotonic() - self._began)
        bar.add_row(Text("tasks"), drawn, Text(f"{self._done}/{self._total}"), Text(seconds, style="dim"))
        running = list(self._running.values())
        return Group(self._table(running, width), bar) if running else Group(bar)

    def _table(self, running: Sequence[Snapshot], width: int) -> Table:
        """As many values as fit into `width` characters."""
        every = dict.fromkeys(name for told in running for name in told.values)
        names = [name for name in every if self._formats.is_shown(name) and name != REGULARIZATION][:MOST_COLUMNS]
        columns = self._columns(running, names)
        while names and _width(columns) > width:
            names.pop()
            columns = self._columns(running, names)
        return _drawn_table(running, columns, max(SHOWN, width - _width(columns) + SHOWN))

    def _columns(self, running: Sequence[Snapshot], names: Sequence[str]) -> dict[str, list[str]]:
        """Texts beside the title and the bar, by the heads of their columns."""
        return {
            "epoch": [f"{told.epoch}/{told.max_epoch}" for told in running],
            **{name: [_text(told, name, self._formats) for told in running] for name in names},
            "left": ["-" if told.seconds_left is None else lasting(told.seconds_left) for told in running],
            "batches/s": ["-" if told.batches_per_second is None else few(told.batches_per_second) for told in running],
        }


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    """Of a table with these columns, a bar, and the shortest title."""
    texts = sum(max(map(len, (head, *cells))) + GAP for head, cells in columns.items())
    return texts + BAR + GAP + SHOWN + GAP


def _drawn_table(running: Sequence[Snapshot], columns: Mapping[str, Sequence[str]], title_width: int) -> Table:
    from rich import box
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    table.add_column("task", no_wrap=True, max_width=title_width)
    table.add_column("", width=BAR)
    for head in columns:
        table.add_column(Text(head), justify="right", no_wrap=True)
    for number, told in enumerate(running):
        bar = ProgressBar(total=max(1, told.max_epoch), completed=told.epochs_behind, width=BAR)
        cells = (Text(texts[number]) for texts in columns.values())
        table.add_row(Text(told.title, overflow="ellipsis"), bar, *cells)
    return table


def progress_line(told: Snapshot, formats: ValueFormats) -> str:
    """Such as ``3f2c9a1b  epoch 3/20, training_loss 0.31, 12 s left``."""
    names = [name for name in told.values if formats.is_shown(name) and (name != REGULARIZATION or told.values[name])]
    values = [f"{name} {_text(told, name, formats)}" for name in names]
    left = [] if told.seconds_left is None else [f"{lasting(told.seconds_left)} left"]
    return f"{told.key[:SHOWN]}  " + ", ".join([f"epoch {told.epoch}/{told.max_epoch}", *values, *left])


def _text(told: Snapshot, name: str, formats: ValueFormats) -> str:
    value = told.values.get(name)
    return "-" if value is None else formats.text(name, value)
