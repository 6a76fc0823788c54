"""What the commands of `trainloom k8s` share: the values that their arguments give, and the objects made of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import at_least_one, at_least_zero
from pipeline.cli.context import config_file, load_settings, setting_names
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


def add_values_arguments(parser: argparse.ArgumentParser, workers: Callable[[str], int | str] = at_least_one) -> None:
    """The arguments that say what is rendered; `workers` reads their number."""
    parser.add_argument("-f", "--values", type=Path, metavar="FILE", help="a YAML file of values")
    parser.add_argument("--workers", type=workers, metavar="N", help="workers, each in a pod of its own")
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
    """The values that the arguments of `add_values_arguments` give, over the settings of this project.

    Raises
    ------
    k8s.values.ValuesError, ConfigurationError
        If one of them is wrong.
    """
    return values_over(project_settings(args), args)


def project_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of this project that hold for pods too; which of them stay here goes to standard error.

    Raises
    ------
    k8s.values.ValuesError, ConfigurationError
        If a value or a setting is wrong.
    """
    from k8s.values import Values
    from pipeline import pod_settings

    given = Values.load(args.values, _overrides(args))
    secret = {variable for item in given.secrets or () for variable in item.env}
    shared, withheld = pod_settings.shared_settings(
        load_settings(args), given=setting_names(args), secret=secret, config=config_file(args)
    )
    for name in withheld:
        print(f"{name} holds a password and stays here; pods get it from a Secret", file=sys.stderr)
    return shared


def values_over(settings: dict[str, Any], args: argparse.Namespace) -> Values:
    """The values that the arguments give, over `project_settings`.

    Raises
    ------
    k8s.values.ValuesError, ConfigurationError
        If one of them is wrong.
    """
    from k8s.values import Values
    from pipeline import pod_settings

    values = Values.load(args.values, _overrides(args), defaults={"settings": settings})
    pod_settings.check(values.settings, "settings")
    for name, group in values.jobs().items():
        pod_settings.check({**values.settings, **group.settings}, f"settings of {name}")
    return values


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Values by their paths; the arguments that have names of their own count more than ``--set``."""
    import yaml

    overrides: dict[str, Any] = {}
    for assignment in args.assignments:
        path, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"--set takes path=value, not {assignment!r}")
        try:
            overrides[path.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"--set {path.strip()}: {value!r} is not valid YAML") from error
    named = {path: getattr(args, argument) for argument, path in SHORTCUTS.items()}
    return {**overrides, **{path: value for path, value in named.items() if value is not None}}


def checked_objects(args: argparse.Namespace, values: Values) -> list[dict[str, Any]] | None:
    """The rendered, patched and checked objects, None where one cannot work; what is wrong goes to standard error."""
    from k8s import lint, patch, render

    objects = patch.patched(render.render(values), [item for path in args.patches for item in patch.read(path)])
    findings = lint.lint(objects)
    for finding in findings:
        print(finding, file=sys.stderr)
    return None if any(finding.severity == "error" for finding in findings) else objects
