"""The command `trainloom`: its parser, and how errors and signals end it."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NoReturn

from pipeline.cli import error_chain

COMMANDS = (
    "demo",
    "init",
    "doctor",
    "gpu",
    "db",
    "insert",
    "task",
    "worker",
    "status",
    "watch",
    "results",
    "report",
    "trace",
    "model",
    "predict",
    "data",
    "store",
    "k8s",
)
"""In the order of the help; each is a module here with `add_parser(subparsers)`, cheap to import."""

INTERRUPTED = 130
TERMINATED = 143
PIPE_CLOSED = 141
"""Exit codes after SIGINT, SIGTERM and SIGPIPE, as a shell reports them."""

DEBUG_VARIABLE = "TRAINLOOM_DEBUG"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 done, 1 failed, 2 wrong usage, 78 wrong configuration, 130 and 143 stopped by SIGINT and SIGTERM.
    """
    args = build_parser().parse_args(argv)
    debug = args.debug or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    _log_to_stderr(debug)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code: int = args.action(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has gone. Python flushes standard output at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            print(error_chain.describe(error), file=sys.stderr)
        return error_chain.exit_code(error)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="trainloom",
        description="Insert dataset, model and training configurations, train their combinations, read the results.",
    )
    parser.add_argument("--version", action="version", version=f"trainloom {metadata.version('trainloom')}")
    parser.add_argument(
        "--config", metavar="FILE", help="a settings file that comes before ./trainloom.d and /etc/trainloom"
    )
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="one setting; may be repeated")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error and more of the log")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"pipeline.cli.{name}").add_parser(subparsers)
    return parser


def _log_to_stderr(debug: bool) -> None:
    """Log lines of ours go to standard error: standard output belongs to the command's result."""
    logger = logging.getLogger("trainloom")
    logger.setLevel(logging.INFO if debug else logging.WARNING)
    logger.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.handlers[:] = [handler]


def _terminate(*_: Any) -> NoReturn:
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
