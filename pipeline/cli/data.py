"""`trainloom data`: examples brought into the project."""

from __future__ import annotations

from typing import Any

from pipeline.cli import data_import


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("data", help="examples: import them into MongoDB, list and remove what was imported")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    data_import.add_actions(actions)
