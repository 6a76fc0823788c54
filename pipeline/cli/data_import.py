"""`trainloom data import`, `list` and `remove`: datasets in MongoDB."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.cli.context import open_session, print_json, print_table
from pipeline.errors import ConfigurationError

INTERVAL = 5.0  # s between two lines of progress


def add_actions(actions: Any) -> None:
    """Register the actions of the command `data`."""
    importing = actions.add_parser(
        "import",
        help="write examples into MongoDB, one document each",
        description="Write examples into MongoDB, one document each, as a dataset that DatasetConfig names mongo:NAME "
        "or mongo:NAME@VERSION. Running it again goes on with an import that was interrupted, and changes nothing in "
        "one that is complete.",
    )
    importing.add_argument("name", metavar="NAME", help="name of the dataset")
    importing.add_argument(
        "source",
        metavar="SOURCE",
        help="a file .csv, .npz, .h5 or .hdf5, or my_package.my_module:my_function, which yields dicts",
    )
    importing.add_argument("--version", default="", metavar="VERSION", help="a version of the dataset beside others")
    importing.add_argument(
        "--array",
        action="append",
        default=[],
        metavar="FIELD=FIRST:LAST",
        help="put the columns FIRST to LAST of a CSV file together to one array; may be repeated",
    )
    importing.add_argument("--params", metavar="JSON", help="keyword arguments of the function")
    importing.set_defaults(action=_import)
    listing = actions.add_parser("list", help="the imported datasets")
    listing.set_defaults(action=_list)
    removing = actions.add_parser("remove", help="remove an imported dataset that no configuration names")
    removing.add_argument("dataset", metavar="NAME[@VERSION]")
    removing.set_defaults(action=_remove)
    for action in (importing, listing, removing):
        action.add_argument("--json", action="store_true", help="print JSON")


def _import(args: argparse.Namespace) -> int:
    from pipeline import import_sources
    from pipeline.data_import import import_examples
    from schemas.binding import services

    arrays = dict(_assignment(text) for text in args.array)
    params = _params(args.params)
    with (
        open_session(args),
        _progress(args.name) as told,
        import_sources.opened(args.source, services("data").resolver, arrays=arrays, params=params) as examples,
    ):
        done = import_examples(
            examples.each,
            args.name,
            version=args.version,
            count=examples.count,
            source=examples.source,
            told=told,
        )
    if args.json:
        print_json({"dataset": done.name, "count": done.count, "sha256": done.sha256, "new": done.new})
    else:
        print(f"{done.name} has {done.count} examples, {done.new} of them new")
    return 0


def _list(args: argparse.Namespace) -> int:
    from pipeline.imported_data import imported

    with open_session(args):
        rows = [
            {
                "dataset": f"mongo:{row['_id']}",
                "state": row["state"],
                "count": row.get("count"),
                "time": row["time"],
                "fields": row.get("fields"),
                "source": row.get("source"),
                "sha256": row.get("sha256"),
            }
            for row in imported()
        ]
    if args.json:
        print_json(rows)
    else:
        columns = ("dataset", "state", "count", "time", "source")
        print_table(columns, [[row[column] for column in columns] for row in rows])
    return 0


def _remove(args: argparse.Namespace) -> int:
    from pipeline.imported_data import remove

    with open_session(args):
        number = remove(args.dataset)
    if args.json:
        print_json({"dataset": f"mongo:{args.dataset}", "removed": number})
    else:
        print(f"mongo:{args.dataset} removed with {number} examples")
    return 0


def _assignment(text: str) -> tuple[str, str]:
    name, equals, columns = text.partition("=")
    if not name or not equals or ":" not in columns:
        raise ConfigurationError(f"--array takes FIELD=FIRST:LAST, not {text!r}")
    return name, columns


def _params(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        params = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"--params is no JSON: {error}") from error
    if not isinstance(params, dict):
        raise ConfigurationError("--params takes a JSON object such as '{\"seed\": 1}'")
    return params


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Shows how many examples were written: a bar on a terminal, a line every few seconds elsewhere; on standard error,
    as standard output belongs to the result."""
    if not sys.stderr.isatty():
        yield _lines(name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)
        yield lambda number, count: progress.update(task, completed=number, total=count)


def _lines(name: str) -> Callable[[int, int | None], None]:
    last = time.monotonic()

    def told(number: int, count: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= INTERVAL:
            last = time.monotonic()
            print(f"{name}: {number}{'' if count is None else f' of {count}'} examples", file=sys.stderr, flush=True)

    return told
