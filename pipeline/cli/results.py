"""`trainloom results`: finished results, sorted and filtered."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.cli.arguments import at_least_one
from pipeline.cli.context import open_session, print_json, print_table

SHORT = ("task", "dataset", "model", "model_params", "training", "seed")
"""What a table begins with; the metrics follow. JSON and CSV hold all that `pipeline.results` returns."""
TEXT_WIDTH = 60
"""Characters of a json value in a table."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("results", help="finished results: sort, filter, choose columns")
    add_choice(parser)
    parser.add_argument("--columns", metavar="A,B", help="columns and metrics; a.b reaches into the json column a")
    parser.add_argument("--limit", type=at_least_one, metavar="N", help="at most N results")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON")
    output.add_argument("--csv", action="store_true", help="print CSV")
    parser.set_defaults(action=_results)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The arguments by which results are ordered and filtered."""
    parser.add_argument(
        "--sort", metavar="COLUMN", help="a column or metric; a metric's best comes first (default: newest first)"
    )
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument("--descending", action="store_const", const=True, dest="descending", help="highest first")
    direction.add_argument("--ascending", action="store_const", const=False, dest="descending", help="lowest first")
    parser.add_argument(
        *("--filter", "-f"),
        action="append",
        default=[],
        metavar="CONDITION",
        help="column=value or an SQL condition such as 'accuracy > 0.9'; may be repeated, all must hold",
    )


def _results(args: argparse.Namespace) -> int:
    columns = [name.strip() for name in args.columns.split(",") if name.strip()] if args.columns else None
    with open_session(args):
        from datajoint import AndList

        from pipeline.results import find_results

        rows = find_results(AndList(args.filter), args.sort, columns, args.limit, descending=args.descending)
    if args.json:
        print_json(rows)
    elif args.csv:
        _print_csv(columns or list(rows[0] if rows else ()), rows)
    elif not rows:
        print("no results" + (" for this filter" if args.filter else " yet; `trainloom worker` trains what waits"))
    else:
        _print_table(rows, columns)
    return 0


def _print_csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)


def _cell(value: Any) -> Any:
    """Every digit of a number, times in ISO 8601, json as json."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return json.dumps(value) if isinstance(value, dict | list) else value


def _print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None) -> None:
    from pipeline.results import LEADERBOARD
    from pipeline.short_keys import shown

    chosen = columns or [*SHORT, *(name for name in rows[0] if name not in LEADERBOARD), "test_score", "duration"]

    def cell(row: dict[str, Any], column: str) -> Any:
        value = row[column]
        if column == "task":
            return shown(value)
        return _shortened(json.dumps(value)) if isinstance(value, dict | list) else value

    print_table(chosen, [[cell(row, column) for column in chosen] for row in rows])


def _shortened(text: str) -> str:
    return text if len(text) <= TEXT_WIDTH else text[: TEXT_WIDTH - 1] + "…"
