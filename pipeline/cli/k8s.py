"""`trainloom k8s`: workers on a Kubernetes cluster."""

from __future__ import annotations

import importlib
from typing import Any

SUBCOMMANDS = (
    "k8s_render",
    "k8s_submit",
    "k8s_status",
    "k8s_logs",
    "k8s_scale",
    "k8s_delete",
    "k8s_doctor",
)
"""In the order of the help; each is a module here with `add_parser(subparsers)`, cheap to import."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "k8s",
        help="workers on a Kubernetes cluster",
        description="Workers as the pods of Kubernetes Jobs.",
    )
    nouns = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in SUBCOMMANDS:
        importlib.import_module(f"pipeline.cli.{name}").add_parser(nouns)
