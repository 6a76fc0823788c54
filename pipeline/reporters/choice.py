"""Which views show the trainings of a session."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from .view import View

if TYPE_CHECKING:
    from pipeline.settings import Settings

Kind = Literal["terminal", "plain", "notebook", "none"]


def kind(settings: Settings, stream: object = None) -> Kind:
    """What the setting `reporter` comes to here; `stream` is where lines go, by default standard error."""
    if settings.reporter != "auto":
        return settings.reporter
    if _in_notebook():
        return "notebook"
    isatty = getattr(sys.stderr if stream is None else stream, "isatty", None)
    return "terminal" if isatty is not None and isatty() else "plain"


def views(settings: Settings, *, in_pool: bool = False) -> list[View]:
    """The views of one training; `in_pool`: in a worker process, whose parent draws."""
    from .value_format import ValueFormats

    formats, window = ValueFormats(settings.value_formats), settings.moving_average
    chosen: list[View] = []
    shown = kind(settings)
    if in_pool and shown != "none":
        from .pool_view import PoolView

        chosen.append(PoolView())
    elif shown == "terminal":
        from .terminal_view import TerminalView

        chosen.append(TerminalView(formats, window))
    elif shown == "plain":
        from .plain_view import PlainView

        chosen.append(PlainView(formats))
    elif shown == "notebook":
        from .notebook_view import NotebookView

        chosen.append(NotebookView(formats, window))
    if settings.tensorboard_dir is not None:
        from .tensorboard_view import TensorboardView

        chosen.append(TensorboardView(settings.tensorboard_dir))
    return chosen


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; IPython in a terminal is none."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"
