"""`trainloom doctor`: looks at every part and says what is wrong, with its cure."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.context import CONFIG_VARIABLE, load_settings, print_json, print_table
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pipeline.settings import Settings

FAILED = 1


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "doctor", help="look at packages, servers, store, folders and GPU; say what is wrong"
    )
    parser.add_argument(
        "--settings", action="store_true", help="print all settings, secrets masked, and where they come from"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    if args.settings:
        return _print_settings(args, load_settings(args))
    problem: ConfigurationError | None = None
    settings = None
    try:
        settings = load_settings(args)
    except ConfigurationError as error:
        problem = error
    return _look(args, settings, problem)


def _look(args: argparse.Namespace, settings: Settings | None, problem: ConfigurationError | None) -> int:
    """Print every check as it is made; 0 if nothing failed, 1 if something did, 78 if the settings cannot be read."""
    from pipeline.checks.check import Status, fail
    from pipeline.doctor import checks

    found = [fail("settings", str(problem))] if problem is not None else []
    if not args.json:
        for check in found:
            print(check.line)
    for check in checks(settings):
        found.append(check)
        if not args.json:
            print(check.line, flush=True)
    if args.json:
        print_json([asdict(check) for check in found])
    if problem is not None:
        return problem.exit_code
    return FAILED if any(check.status is Status.FAIL for check in found) else 0


def _print_settings(args: argparse.Namespace, settings: Settings) -> int:
    from pipeline.doctor import list_settings

    named = args.config or os.environ.get(CONFIG_VARIABLE)
    listed = list_settings(settings, Path(named) if named else None)
    if args.json:
        print_json([asdict(setting) for setting in listed])
    else:
        rows = [(setting.name, setting.value, setting.origin, setting.description) for setting in listed]
        print_table(("setting", "value", "from", "meaning"), rows)
    return 0
