"""`trainloom init`: a home, running servers, declared tables."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.cli.context import open_session, print_json


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("init", help="make a home here, start its servers, declare the tables")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_init)


def _init(args: argparse.Namespace) -> int:
    from pipeline.home import Home

    before = Home.find()
    with open_session(args, create_home=True) as session:
        home = session.home
        places = {
            "home": str(home.path) if home else None,
            "made": home is not None and before is None,
            "database": _database(session),
            "schema": session.settings.schema_name,
            "store": session.store.where,
            "note": session.store_note,
            "dataset_dir": str(session.folders.dataset_dir),
        }
    if args.json:
        print_json(places)
        return 0
    if places["home"]:
        print(f"home      {places['home']} ({'made now' if places['made'] else 'was here before'})")
    print(f"database  {places['database']}, schema {places['schema']}")
    print(f"store     {places['store']}")
    print(f"data      {places['dataset_dir']} is where data files belong")
    print("next      `trainloom demo` for an example, or `trainloom insert FILE` with rows of your own")
    return 0


def _database(session: Any) -> str:
    """The address of the relational server, without its password."""
    elsewhere = session.settings.database
    if elsewhere is not None:
        return str(elsewhere.label)
    from pipeline.services import PostgresServer

    return f"PostgreSQL in {PostgresServer(session.home).data_dir}"
