"""`trainloom db`: the servers that a home brings along."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.cli.context import load_settings, print_json, print_table
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pipeline.services.process import Server


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("db", help="start, stop or show the embedded database servers")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    actions.add_parser("start", help="start them").set_defaults(action=_start)
    actions.add_parser("stop", help="stop them; whoever uses them loses the connection").set_defaults(action=_stop)
    status = actions.add_parser("status", help="show whether they run, where and since which version")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(action=_status)


def _start(args: argparse.Namespace) -> int:
    from pipeline.services import MongoUnavailable

    for server in _embedded(args):
        try:
            address = server.ensure_running()
        except MongoUnavailable as problem:
            print(f"{server.name} does not run here, so objects are kept in a folder: {problem}")
        else:
            print(f"{server.name} runs at {address.url}")
    return 0


def _stop(args: argparse.Namespace) -> int:
    for server in _servers():  # all of the home, also where other settings have named servers elsewhere since
        print(f"{server.name} {'has stopped' if server.stop() else 'was not running'}")
    return 0


def _status(args: argparse.Namespace) -> int:
    found = [server.status() for server in _servers()]
    if args.json:
        print_json([asdict(status) for status in found])
        return 0
    print_table(
        ("server", "state", "process", "version", "data", "log"),
        [(s.name, "runs" if s.running else "stopped", s.pid, s.version, s.data_dir, s.log) for s in found],
    )
    return 0


def _servers() -> list[Server[Any]]:
    from pipeline.home import Home
    from pipeline.services import MongoServer, PostgresServer

    home = Home.find()
    if home is None:
        raise ConfigurationError(
            "there is no trainloom home here or above; run `trainloom init` to make one, or set TRAINLOOM_HOME"
        )
    return [PostgresServer(home), MongoServer(home)]


def _embedded(args: argparse.Namespace) -> list[Server[Any]]:
    """The servers of the home that the settings make use of."""
    settings = load_settings(args)
    postgres, mongo = _servers()
    wanted = [postgres] if settings.database is None else []
    if settings.mongo_url is None and settings.store != "folder":
        wanted.append(mongo)
    if not wanted:
        raise ConfigurationError("the settings name servers elsewhere: there is no embedded one to start")
    return wanted
