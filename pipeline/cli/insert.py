"""`trainloom insert`: rows and grids from a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.cli.context import open_session, print_json, print_table


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "insert",
        help="insert configurations, tasks and grids from a YAML, JSON or CSV file",
        description="Insert the rows of a file: all of them or, if one is wrong, none. "
        "Rows that are there already are left as they are.",
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="sections datasets, models, trainings, tasks and grids; or a CSV file"
    )
    parser.add_argument(
        "--table", choices=("datasets", "models", "trainings", "tasks"), help="what the rows of a CSV file are"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with all keys")
    parser.set_defaults(action=_insert)


def _insert(args: argparse.Namespace) -> int:
    from pipeline import insert_file
    from pipeline.short_keys import shown

    content = insert_file.read(args.file, args.table)
    with open_session(args) as session:
        inserted = insert_file.insert(content, session.connection)
    counts = inserted.counts()
    keys = {section: [next(iter(key.values())) for key in found] for section, found in inserted.keys.items()}
    if args.json:
        print_json({section: {**counts[section], "keys": keys[section]} for section in counts})
        return 0
    print_table(("section", "new", "existing"), [(section, *count.values()) for section, count in counts.items()])
    for section in insert_file.TABLES:
        for row, key in zip(content.sections.get(section, []), keys.get(section, []), strict=True):
            print(f"{section.removesuffix('s')} {shown(key)}" + (f"  {row['name']}" if "name" in row else ""))
    return 0
