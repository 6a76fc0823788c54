"""`trainloom data`: examples brought into the project."""

from __future__ import annotations

from typing import Any

from pipeline.cli import data_check, data_import, data_pack


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("data", help="examples: pack and check them, or import them into MongoDB")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    data_pack.add_actions(actions)
    data_check.add_actions(actions)
    data_import.add_actions(actions)
