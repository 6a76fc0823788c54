"""`trainloom report`: results side by side, as a page, pictures and tables."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.cli.arguments import at_least_one
from pipeline.cli.context import open_session, print_json
from pipeline.cli.results import add_choice

LIMIT = 20
"""How many results a report compares where nothing else is asked for: more curves cannot be told apart."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "report",
        help="compare results: one page, curves as pictures and CSV",
        description="Compare finished results: one self-contained page, the curves of each as a picture and as CSV, "
        "and a table of all. The folder is written anew as a whole.",
    )
    parser.add_argument("keys", nargs="*", metavar="KEY", help="keys of tasks, or their first characters (default all)")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="a new folder, or a report's")
    add_choice(parser)
    parser.add_argument(
        "--limit", type=at_least_one, metavar="N", help=f"at most N results ({LIMIT}, or as many as keys are given)"
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(action=_report)


def _report(args: argparse.Namespace) -> int:
    with open_session(args) as session:
        from pipeline.report import write_report
        from pipeline.report_choice import chosen_results

        chosen, left_out = chosen_results(
            args.keys, args.filter, args.sort, args.limit or len(args.keys) or LIMIT, descending=args.descending
        )
        page = write_report(chosen, args.output, session)
    if args.json:
        print_json({"page": page, "tasks": chosen, "left_out": left_out})
        return 0
    print(f"{page} compares {len(chosen)} {'result' if len(chosen) == 1 else 'results'}.")
    if left_out:
        print(f"{left_out} more fulfil the conditions; --limit takes more of them in.")
    return 0
