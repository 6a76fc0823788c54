"""A training as a live table in a notebook."""

from __future__ import annotations

import html
from typing import Any

from . import curve_svg
from .moving_average import moving_average
from .refresher import Refresher
from .terminal_frame import LOSSES, closing_line, pace, position, shown_names
from .training_state import TrainingState
from .value_format import ValueFormats


class NotebookView:
    """Shows one output per training: its progress, a table of its values, and the curve of its losses."""

    def __init__(self, formats: ValueFormats, window: int) -> None:
        """`window`: epochs over which values are averaged; 1 for none."""
        self._formats = formats
        self._window = window
        self._handle: Any = None
        self._refresher: Refresher | None = None

    def begin(self, state: TrainingState) -> None:
        from IPython.display import HTML, display

        page = HTML(self._page(state))  # type: ignore[no-untyped-call]
        self._handle = display(page, display_id=True)  # type: ignore[no-untyped-call]
        self._refresher = Refresher(lambda: self._draw(state))

    def moved(self, state: TrainingState) -> None: ...

    def epoch(self, state: TrainingState) -> None: ...

    def end(self, state: TrainingState) -> None:
        if self._refresher is not None:
            self._refresher.stop()
            self._refresher = None
        self._draw(state, ended=True)

    def _draw(self, state: TrainingState, *, ended: bool = False) -> None:
        from IPython.display import HTML

        if self._handle is not None:
            self._handle.update(HTML(self._page(state, ended=ended)))  # type: ignore[no-untyped-call]

    def _page(self, state: TrainingState, *, ended: bool = False) -> str:
        if ended:
            head = f"<b>{html.escape(closing_line(state, self._formats))}</b>"
        else:
            share = state.epochs_behind / state.max_epoch if state.max_epoch else 0.0
            told = ", ".join(part for part in (position(state), pace(state)) if part)
            head = (
                f"<b>{html.escape(state.training.title)}</b><br>"
                f'<progress value="{share:.4f}" max="1"></progress> {html.escape(told)}'
            )
        shown = [name for name in LOSSES if name in state.history and self._formats.is_shown(name)]
        curves = curve_svg.draw({name: state.history[name] for name in shown}, "loss")
        return f"<div>{head}{self._table(state, shown)}<div style='max-width:640px'>{curves}</div></div>"

    def _table(self, state: TrainingState, drawn: list[str]) -> str:
        rows = []
        for name in shown_names(state, self._formats):
            values = state.history[name][1]
            mark = f' style="color:{curve_svg.color(drawn.index(name))}"' if name in drawn else ""
            cells = [self._formats.text(name, values[-1])]
            if self._window > 1:
                cells.append(self._formats.text(name, moving_average(values, self._window)))
            numbers = "".join(f'<td style="text-align:right">{html.escape(cell)}</td>' for cell in cells)
            rows.append(f"<tr><th{mark}>{html.escape(name)}</th>{numbers}</tr>")
        if not rows:
            return ""
        mean = f"<th>mean of {self._window}</th>" if self._window > 1 else ""
        return f"<table><tr><th></th><th>last</th>{mean}</tr>{''.join(rows)}</table>"
