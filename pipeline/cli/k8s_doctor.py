"""`trainloom k8s doctor`: whether workers can run on a cluster, and what is wrong with its cure."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.cli.context import load_settings, print_json
from pipeline.cli.k8s_cluster import add_cluster_arguments, open_api
from pipeline.cli.k8s_values import add_values_arguments, load_values

if TYPE_CHECKING:
    from k8s.values import Values

FAILED = 1


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="whether workers can run on the cluster: access, rights, secrets, quota, addresses of servers",
        description="Look at the cluster, this user's rights, the namespace, its quota, the Secrets that pods need and "
        "whether the addresses of the servers mean anything inside a pod. Nothing is changed; no Secret is read.",
    )
    add_values_arguments(parser)
    add_cluster_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(action=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    """Print every check as it is made; 0 if nothing failed, 1 if something did."""
    from pipeline.checks.check import Status
    from pipeline.checks.cluster import checks
    from pipeline.doctor import without_secrets

    settings, values = load_settings(args), _values(args)
    found = []
    open_cluster = partial(open_api, args, None if values is None else values.namespace)
    for check in without_secrets(settings, checks(open_cluster, settings, values)):
        found.append(check)
        if not args.json:
            print(check.line, flush=True)
    if args.json:
        print_json([asdict(check) for check in found])
    return FAILED if any(check.status is Status.FAIL for check in found) else 0


def _values(args: argparse.Namespace) -> Values | None:
    """What is to be submitted, None where the arguments do not say it."""
    return None if args.values is None and args.image is None else load_values(args)
