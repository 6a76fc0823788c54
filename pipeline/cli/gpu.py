"""`trainloom gpu`: the GPUs of this machine, how busy they are, and who uses them."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from pipeline.cli import refresh
from pipeline.cli.context import open_session, print_json, print_table
from pipeline.errors import PipelineError

PACE = 2.0  # s between looks
GIB = 2**30
COLUMNS = ("gpu", "name", "free GiB", "of GiB", "busy %", "°C", "W", "used by")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "gpu",
        help="the GPUs of this machine, how busy they are, and who uses them",
        description="The GPUs and MIG instances of this machine. A * marks those that this environment hides from "
        "CUDA (CUDA_VISIBLE_DEVICES).",
    )
    refresh.add_watch_argument(parser, PACE)
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch one line per refresh")
    parser.set_defaults(action=_gpu)


def _gpu(args: argparse.Namespace) -> int:
    from pipeline.gpu_table import listing

    with ExitStack() as sessions:
        tasks = _Tasks(args, sessions)
        if args.watch is not None:
            return refresh.watch(_looks(tasks, args.watch), _print, as_json=args.json)
        found = listing(tasks)
        if args.json:
            print_json(found)
        else:
            _print(found)
        return 0


def _looks(tasks: _Tasks, pace: float) -> Iterator[Mapping[str, Any]]:
    """The GPUs again and again, until there are none."""
    from pipeline.gpu_table import listing

    for found in refresh.paced(lambda: listing(tasks), pace):
        yield found
        if not found["gpus"]:
            return


class _Tasks:
    """Which task each process of this machine trains; a session is opened when that is first asked."""

    def __init__(self, args: argparse.Namespace, sessions: ExitStack) -> None:
        self._args = args
        self._sessions = sessions
        self._usable: bool | None = None

    def __call__(self, pids: Collection[int]) -> Mapping[int, str]:
        if self._usable is None:
            try:
                self._sessions.enter_context(open_session(self._args))
                self._usable = True
            except (PipelineError, OSError) as error:  # the GPUs are there all the same
                print(f"the tasks of the workers are not known: {error}", file=sys.stderr)
                self._usable = False
        if not self._usable:
            return {}
        from pipeline import live_workers, prediction_states, script_states

        host = platform.node()[:255]  # as attempts record it
        rows = [row for module in (live_workers, prediction_states, script_states) for row in module.live_workers()]
        return {row["pid"]: row["task"] for row in rows if row["host"] == host and row["pid"] in pids}


def _print(found: Mapping[str, Any]) -> None:
    if found["gpus"]:
        print_table(COLUMNS, (row for gpu in found["gpus"] for row in _rows(gpu)))
    else:
        print("no GPU can be used here, trainings run on the CPU")
    for problem in found["problems"]:
        print(problem)


def _rows(gpu: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    """The GPU with its first user, and a row for each other one."""
    users = [_user(user) for user in gpu["users"]]
    if not gpu["users_known"]:
        users.append("others that cannot be seen from here")
    hidden = "*" if gpu["visible"] is False else ""
    memory = (_gib(gpu["memory_free"]), _gib(gpu["memory_total"]))
    sensors = (gpu["utilisation"], gpu["temperature"], None if gpu["power"] is None else round(gpu["power"]))
    yield gpu["index"] + hidden, gpu["name"], *memory, *sensors, users[0] if users else "nobody"
    for user in users[1:]:
        yield *("",) * (len(COLUMNS) - 1), user


def _gib(amount: int | None) -> float | None:
    return None if amount is None else round(amount / GIB, 1)


def _user(user: Mapping[str, Any]) -> str:
    from pipeline.short_keys import shown

    who = f"{user['user'] or 'somebody'}: {user['command'] or 'unknown'} ({user['pid']})"
    memory = "" if user["memory"] is None else f", {user['memory'] / GIB:.1f} GiB"
    task = "" if user["task"] is None else f", task {shown(user['task'])}"
    return f"{who}{memory}{task}"
