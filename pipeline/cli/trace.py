"""`trainloom trace`: the whole chain of one result or prediction, from the data file to the model."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.cli.context import open_session, print_json


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "trace", help="where a result or prediction comes from: data, parameters, code, machine, model"
    )
    parser.add_argument("key", metavar="KEY", help="the key of a training or prediction task, or its first characters")
    parser.add_argument("--code", action="store_true", help="print the recorded text of the modules, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_trace)


def _trace(args: argparse.Namespace) -> int:
    with open_session(args):
        from pipeline import prediction_trace, trace
        from pipeline.task_kind import PREDICTIONS, TRAININGS, named

        kind, key = named(args.key, (TRAININGS, PREDICTIONS))
        chain = prediction_trace if kind is PREDICTIONS else trace
        found = chain.trace(key, code=args.code)
    if args.json:
        print_json(found)
    else:
        print(chain.render(found))
    return 0
