"""What every command needs: the session that its arguments ask for, and how it prints."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pipeline.session import Session
    from pipeline.settings import Settings

CONFIG_VARIABLE = "TRAINLOOM_CONFIG"


def load_settings(args: argparse.Namespace) -> Settings:
    """The settings that the command line, the environment and the files give.

    Raises
    ------
    ConfigurationError
        If one of them is wrong; the message names it.
    """
    from pipeline.settings import Settings

    return Settings.load(_overrides(args.set), config=config_file(args))


def config_file(args: argparse.Namespace) -> Path | None:
    """The settings file that is named, None for none."""
    named = args.config or os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else None


def setting_names(args: argparse.Namespace) -> frozenset[str]:
    """The settings that the command line sets."""
    return frozenset(_overrides(args.set))


def _overrides(assignments: Iterable[str]) -> dict[str, str]:
    """What ``--set name=value`` asks for."""
    overrides = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"--set takes name=value, not {assignment!r}")
        overrides[name.strip().replace("-", "_")] = value
    return overrides


def open_session(args: argparse.Namespace, create_home: bool = False) -> Session:
    """Open the session of a command; only commands that may make a home ask for one with `create_home`."""
    from pipeline.session import connect

    return connect(load_settings(args), create_home=create_home)


def is_terminal() -> bool:
    """Whether standard output is read by a person."""
    return sys.stdout.isatty()


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print a value as JSON (RFC 8259): times in ISO 8601 with their zone, what is not finite as null; without an
    indent as one line, at once."""
    print(json.dumps(_jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False), flush=indent is None)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _jsonable(content) for name, content in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under the names of their columns: a table on a terminal, aligned plain text elsewhere.

    None is shown as ``-``, floats with four significant digits, other values as they print; numbers stand right.
    """
    rows = [list(row) for row in rows]
    right = [any(map(_is_number, cells)) for cells in zip(*rows, strict=True)] or [False] * len(columns)
    texts = [[_text(cell) for cell in row] for row in rows]
    if is_terminal():
        _print_rich(columns, texts, right)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *texts, strict=True)]
    for line in (columns, *texts):
        cells = zip(line, widths, right, strict=True)
        print(
            "  ".join(cell.rjust(width) if is_right else cell.ljust(width) for cell, width, is_right in cells).rstrip()
        )


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    if isinstance(cell, datetime):
        return cell.isoformat(sep=" ", timespec="seconds")
    return str(cell)


def _print_rich(columns: Sequence[str], texts: list[list[str]], right: list[bool]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    for column, is_right in zip(columns, right, strict=True):
        table.add_column(Text(column), justify="right" if is_right else "left", overflow="fold")
    for row in texts:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a cell are no markup
    Console().print(table)
