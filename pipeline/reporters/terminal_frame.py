"""What a terminal shows of one training: a bar, its values, and the curve of its losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import terminal_curve
from .duration import TWO_FIGURES, lasting
from .moving_average import moving_average
from .training_state import TrainingState
from .value_format import ValueFormats

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

LOSSES = ("training_loss", "validation_loss")
"""Whose curves are drawn."""
REGULARIZATION = "regularization_loss"
CURVE_LINES, MOST_COLUMNS = 12, 100
OTHER_LINES = 6  # at least, beside the curve


class TerminalFrame:
    """Draws states for one terminal; the curve anew only when an epoch has ended or the width has changed."""

    def __init__(self, formats: ValueFormats, window: int) -> None:
        """`window`: epochs over which values are averaged; 1 for none."""
        self._formats = formats
        self._window = window
        self._drawn: tuple[tuple[int, int, int, str], Text | None] | None = None

    def render(self, state: TrainingState, width: int, height: int) -> RenderableType:
        """The frame for a terminal of `width` characters and `height` lines."""
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [Text(state.training.title, style="bold", no_wrap=True, overflow="ellipsis")]
        parts.append(self._bar(state))
        if state.history:
            parts.append(self._values(state))
            curve = self._curve(state, min(width, MOST_COLUMNS), min(CURVE_LINES, height - OTHER_LINES - len(parts)))
            if curve is not None:
                parts.append(curve)
        return Group(*parts)

    def _bar(self, state: TrainingState) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row = Table.grid(padding=(0, 1))
        known = bool(state.max_epoch and (state.batches or state.epoch))
        bar = ProgressBar(total=max(1, state.max_epoch), completed=state.epochs_behind, width=30)
        row.add_row(Text(position(state)), *([bar] if known else []), Text(pace(state), style="dim"))
        return row

    def _values(self, state: TrainingState) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for name in shown_names(state, self._formats):
            values = state.history[name][1]
            style = terminal_curve.STYLES[LOSSES.index(name)] if name in LOSSES else ""
            cells = [Text(name, style=style), Text(self._formats.text(name, values[-1]), justify="right")]
            if self._window > 1:
                mean = self._formats.text(name, moving_average(values, self._window))
                cells.append(Text(f"mean of {min(self._window, len(values))}: {mean}", style="dim"))
            table.add_row(*cells)
        return table

    def _curve(self, state: TrainingState, width: int, height: int) -> Text | None:
        from rich.text import Text

        curves = {name: state.history.get(name, ([], [])) for name in LOSSES}
        shown = {name: curve if self._formats.is_shown(name) else ([], []) for name, curve in curves.items()}
        if height < OTHER_LINES:
            return None
        last = max((epochs[-1] for epochs, _ in shown.values() if epochs), default=0)
        seen = (last, width, height, state.training.key)
        if self._drawn is None or self._drawn[0] != seen:
            curve = terminal_curve.draw(shown, width, height).rstrip("\n")
            self._drawn = seen, Text.from_ansi(curve, no_wrap=True) if curve else None
        return self._drawn[1]


def shown_names(state: TrainingState, formats: ValueFormats) -> list[str]:
    """The values that are to be seen; a regularization that is always 0 is none."""
    names = [name for name in list(state.history) if formats.is_shown(name)]
    return [name for name in names if name != REGULARIZATION or any(state.history[name][1])]


def position(state: TrainingState) -> str:
    """Such as ``epoch 3/20, batch 12/90``."""
    told = f"epoch {state.epoch}/{state.max_epoch}" if state.max_epoch else "starting"
    if not state.step:
        return told
    return f"{told}, batch {state.step}/{state.batches}" if state.batches else f"{told}, batch {state.step}"


def pace(state: TrainingState) -> str:
    """Such as ``830 batches/s, 26600 examples/s, 12 s left``, as far as it is known."""
    told = []
    rate = state.batches_per_second()
    if rate is not None:
        told.append(f"{few(rate)} batches/s, {few(rate * state.training.batch_size)} examples/s")
    left = state.seconds_left
    if left:
        told.append(f"{lasting(left)} left")
    return ", ".join(told)


def few(number: float) -> str:
    """A number of two figures at least, without an exponent."""
    return f"{number:,.0f}" if number >= TWO_FIGURES else f"{number:.2g}"


def values_line(state: TrainingState, formats: ValueFormats) -> str:
    """The newest values that are shown, such as ``training_loss 0.31, validation_loss 0.4``."""
    last = state.last()
    return ", ".join(f"{name} {formats.text(name, last[name])}" for name in shown_names(state, formats))


def closing_line(state: TrainingState, formats: ValueFormats) -> str:
    """What is left of a training when it has ended, in a line."""
    values = values_line(state, formats)
    count = f"{state.epoch} of {state.max_epoch} epochs" if state.epoch < state.max_epoch else f"{state.epoch} epochs"
    return f"{state.training.title}: {count} in {lasting(state.seconds)}" + (f", {values}" if values else "")
