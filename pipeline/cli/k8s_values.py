"""What the commands of `trainloom k8s` share: the values that their arguments give, and the objects made of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_one, at_least_zero
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from k8s.values import Values

SHORTCUTS = {
    "workers": "worker.workers",
    "gpus": "worker.gpus",
    "gpu_memory": "worker.gpu_memory",
    "image": "image",
    "namespace": "namespace",
}
"""Arguments that stand for a value."""


def add_values_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what is rendered."""
    parser.add_argument("-f", "--values", type=Path, metavar="FILE", help="a YAML file of values")
    parser.add_argument("--workers", type=at_least_one, metavar="N", help="workers, each in a pod of its own")
    parser.add_argument("--gpus", type=at_least_zero, metavar="N", help="GPUs of each pod")
    parser.add_argument("--gpu-memory", metavar="SIZE", help="memory that each GPU must have, such as 11Gi")
    parser.add_argument("--image", metavar="IMAGE", help="the image, best with its digest")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="the namespace")
    parser.add_argument(
        "--set",
        dest="assignments",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="a value by its path, such as groups.gpu.workers=8; may be repeated",
    )
    parser.add_argument(
        "--patch",
        dest="patches",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="a YAML file of objects that are merged into those rendered; may be repeated",
    )


def load_values(args: argparse.Namespace) -> Values:
    """The values that the arguments of `add_values_arguments` give.

    Raises
    ------
    k8s.values.ValuesError
        If one of them is wrong.
    """
    import yaml

    from k8s.values import Values

    overrides: dict[str, Any] = {}
    for assignment in args.assignments:
        path, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"--set takes path=value, not {assignment!r}")
        overrides[path.strip()] = yaml.safe_load(value)
    for argument, path in SHORTCUTS.items():
        if getattr(args, argument) is not None:
            overrides[path] = getattr(args, argument)
    return Values.load(args.values, overrides)


def checked_objects(args: argparse.Namespace, values: Values) -> list[dict[str, Any]] | None:
    """The rendered, patched and checked objects; findings are printed on standard error. None where one is an error."""
    import yaml

    from k8s import lint, patch, render

    patches = [item for path in args.patches for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item]
    objects = patch.patched(render.render(values), patches)
    findings = lint.lint(objects)
    for finding in findings:
        print(finding, file=sys.stderr)
    return None if any(finding.severity == "error" for finding in findings) else objects
