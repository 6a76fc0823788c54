"""`trainloom trace`: the whole chain of one result, from the data file to the model."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.cli.context import open_session, print_json


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("trace", help="where a result comes from: data, parameters, code, machine, model")
    parser.add_argument("key", metavar="KEY", help="the key of a task, or its first characters")
    parser.add_argument("--code", action="store_true", help="print the recorded text of the modules, too")
    parser.add_argument("--no-check", action="store_true", help="do not run the query again that data were packed from")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_trace)


def _trace(args: argparse.Namespace) -> int:
    with open_session(args):
        from pipeline.trace import render, trace

        found = trace(args.key, code=args.code, check=not args.no_check)
    if args.json:
        print_json(found)
    else:
        print(render(found))
    return 0
