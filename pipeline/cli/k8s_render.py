"""`trainloom k8s render`: the objects of a cluster as YAML."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pipeline.cli.k8s_values import add_values_arguments, checked_objects, load_values


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "render",
        help="print what would be submitted, as YAML",
        description="Print ConfigMap, ServiceAccounts, Role, example Secrets and Jobs as YAML for "
        "`kubectl apply -f -`. What is wrong with them is said on standard error; an error prints nothing (exit 1).",
    )
    add_values_arguments(parser)
    parser.set_defaults(action=_render)


def _render(args: argparse.Namespace) -> int:
    from k8s.manifest import to_yaml

    objects = checked_objects(args, load_values(args))
    if objects is None:
        return 1
    sys.stdout.write(to_yaml(objects))
    return 0
