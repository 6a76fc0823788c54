"""The fields that objects may have and what they hold: misspelt names and wrong types, found without a server."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from . import quantity
from .finding import Problem

TYPE_FILES = ("types.yaml", "keda_types.yaml")
API_VERSIONS = {
    "Job": "batch/v1",
    "ConfigMap": "v1",
    "Secret": "v1",
    "ServiceAccount": "v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "Service": "v1",
    "ScaledJob": "keda.sh/v1alpha1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
}
"""The kinds whose fields are known, and what their `apiVersion` must say."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "Container.imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "Container.terminationMessagePolicy": ("File", "FallbackToLogsOnError"),
    "ContainerPort.protocol": ("TCP", "UDP", "SCTP"),
    "EmptyDirVolumeSource.medium": ("", "Memory", "HugePages", "HugePages-2Mi", "HugePages-1Gi"),
    "HostPathVolumeSource.type": (
        ("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
    ),
    "JobSpec.completionMode": ("Indexed", "NonIndexed"),
    "JobSpec.podReplacementPolicy": ("Failed", "TerminatingOrFailed"),
    "LabelSelectorRequirement.operator": ("In", "NotIn", "Exists", "DoesNotExist"),
    "NodeSelectorRequirement.operator": ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"),
    "PodFailurePolicyOnExitCodesRequirement.operator": ("In", "NotIn"),
    "PodFailurePolicyRule.action": ("FailJob", "FailIndex", "Ignore", "Count"),
    "PodSecurityContext.fsGroupChangePolicy": ("OnRootMismatch", "Always"),
    "PodSpec.dnsPolicy": ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    "PodSpec.preemptionPolicy": ("PreemptLowerPriority", "Never"),
    "PodSpec.restartPolicy": ("Always", "OnFailure", "Never"),
    "RoleRef.kind": ("Role", "ClusterRole"),
    "SeccompProfile.type": ("RuntimeDefault", "Localhost", "Unconfined"),
    "ServiceSpec.type": ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    "Subject.kind": ("ServiceAccount", "User", "Group"),
    "Toleration.effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"),
    "Toleration.operator": ("Equal", "Exists"),
    "TopologySpreadConstraint.whenUnsatisfiable": ("DoNotSchedule", "ScheduleAnyway"),
}
"""What a text may be."""

BOUNDS: Mapping[str, tuple[int, int]] = {
    "JobSpec.activeDeadlineSeconds": (1, 2**31 - 1),
    "JobSpec.backoffLimit": (0, 2**31 - 1),
    "JobSpec.backoffLimitPerIndex": (0, 2**31 - 1),
    "JobSpec.completions": (0, 2**31 - 1),
    "JobSpec.maxFailedIndexes": (0, 100_000),
    "JobSpec.parallelism": (0, 2**31 - 1),
    "JobSpec.ttlSecondsAfterFinished": (0, 2**31 - 1),
    "PodSecurityContext.runAsUser": (0, 2**31 - 1),
    "PodSecurityContext.runAsGroup": (0, 2**31 - 1),
    "PodSecurityContext.fsGroup": (0, 2**31 - 1),
    "PodSpec.activeDeadlineSeconds": (1, 2**31 - 1),
    "PodSpec.terminationGracePeriodSeconds": (0, 2**31 - 1),
    "PreferredSchedulingTerm.weight": (1, 100),
    "Probe.failureThreshold": (1, 2**31 - 1),
    "Probe.initialDelaySeconds": (0, 2**31 - 1),
    "Probe.periodSeconds": (1, 2**31 - 1),
    "Probe.successThreshold": (1, 2**31 - 1),
    "Probe.timeoutSeconds": (1, 2**31 - 1),
    "ServicePort.port": (1, 65_535),
    "WeightedPodAffinityTerm.weight": (1, 100),
}
"""The smallest and the largest whole number that is taken."""


@dataclass(frozen=True)
class Node:
    """A part of an object with the type that the API gives it; its fields have the types they should have."""

    type: str
    path: str
    value: Mapping[str, Any]

    def at(self, *fields: str) -> str:
        """The path of a field, or of one within it."""
        return functools.reduce(below, fields, self.path)


def below(path: str, field: str) -> str:
    """The path of a field in what lies at `path`; names that hold dots or slashes in brackets."""
    if not field.replace("-", "").replace("_", "").isalnum():
        return f'{path}["{field}"]'
    return f"{path}.{field}" if path else field


def checked(manifest: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The object without what is wrong in its structure, and what that was. Kinds that are not known are left alone."""
    kind = manifest.get("kind")
    if not isinstance(kind, str) or kind not in API_VERSIONS:
        return dict(manifest), []
    problems: list[Problem] = []
    cleaned = _object(manifest, kind, "", problems)
    version = cleaned.get("apiVersion")
    if version != API_VERSIONS[kind]:
        problem = "is missing" if version is None else f"is {version!r}"
        problems.append(Problem("apiVersion", problem, f"a {kind} has {API_VERSIONS[kind]}"))
    return cleaned, problems


def nodes(cleaned: Mapping[str, Any]) -> Iterator[Node]:
    """The parts of an object that `checked` gave, from the outside in."""
    kind = cleaned.get("kind")
    if isinstance(kind, str) and kind in API_VERSIONS:
        yield from _nodes(cleaned, kind, "")


def _nodes(value: Any, form: Any, path: str) -> Iterator[Node]:
    if isinstance(form, list):
        for index, item in enumerate(value):
            yield from _nodes(item, form[0], f"{path}[{index}]")
    elif isinstance(form, str) and form in _types():
        yield Node(form, path, value)
        fields = _types()[form]
        for name, content in value.items():
            yield from _nodes(content, fields[name].form, below(path, name))


@dataclass(frozen=True)
class _Field:
    form: Any
    required: bool


@functools.cache
def _types() -> Mapping[str, Mapping[str, _Field]]:
    folder = resources.files(__package__)
    return {
        name: {field.rstrip("!"): _Field(form, field.endswith("!")) for field, form in fields.items()}
        for file in TYPE_FILES
        for name, fields in yaml.safe_load(folder.joinpath(file).read_text(encoding="utf-8")).items()
    }


def _object(value: Mapping[str, Any], name: str, path: str, problems: list[Problem]) -> dict[str, Any]:
    fields = _types()[name]
    cleaned: dict[str, Any] = {}
    for key, content in value.items():
        where = below(path, str(key))
        if key not in fields:
            problems.append(Problem(where, "is no field of the API", _suggestion(str(key), fields)))
        elif content is not None:
            found = _content(content, fields[key].form, where, problems)
            if found is not None and _is_allowed(found, f"{name}.{key}", where, problems):
                cleaned[key] = found
    for key, field in fields.items():
        if field.required and value.get(key) is None:
            problems.append(Problem(below(path, key), "is missing", "it must be given"))
    return cleaned


def _suggestion(key: str, fields: Mapping[str, Any]) -> str:
    by_letters = {field.lower(): field for field in fields}
    close = difflib.get_close_matches(key.lower().replace("_", ""), by_letters, n=1)
    return f"did you mean {by_letters[close[0]]}?" if close else f"there are {', '.join(sorted(fields))}"


def _content(value: Any, form: Any, path: str, problems: list[Problem]) -> Any:
    """The value without what is wrong in it; None if nothing is left."""
    if isinstance(form, list):
        if not isinstance(value, list):
            return _wrong(value, path, "a list", problems)
        items = [_content(item, form[0], f"{path}[{index}]", problems) for index, item in enumerate(value)]
        return [item for item in items if item is not None]
    if isinstance(form, dict):
        if not isinstance(value, Mapping):
            return _wrong(value, path, "`name: value` lines", problems)
        entries = {
            str(key): _content(item, form["each"], below(path, str(key)), problems) for key, item in value.items()
        }
        return {key: item for key, item in entries.items() if item is not None}
    if form in _types():
        if not isinstance(value, Mapping):
            return _wrong(value, path, "`name: value` lines", problems)
        return _object(value, form, path, problems)
    return _scalar(value, form, path, problems)


def _scalar(value: Any, form: str, path: str, problems: list[Problem]) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if form == "text" and not isinstance(value, str):
        return _wrong(value, path, "text", problems, f'write it in quotes: "{_yaml(value)}"')
    if form == "int" and not (is_number and isinstance(value, int)):
        cure = "write the number without quotes" if isinstance(value, str) and value.lstrip("-").isdigit() else None
        return _wrong(value, path, "a whole number", problems, cure)
    if form == "bool" and not isinstance(value, bool):
        return _wrong(value, path, "true or false", problems, "write true or false without quotes")
    if form == "quantity":
        if not is_number and not isinstance(value, str):
            return _wrong(value, path, "a quantity", problems)
        try:
            quantity.amount(str(value))
        except ValueError:
            return _wrong(value, path, "a quantity", problems, "write a number with a unit, such as 500m, 16G or 11Gi")
        return str(value)
    return value


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _wrong(value: Any, path: str, wanted: str, problems: list[Problem], cure: str | None = None) -> None:
    kind = {str: "the text", bool: "the truth value", dict: "a mapping", list: "a list"}.get(type(value), "the number")
    shown = f"{kind} {value!r}" if isinstance(value, str | int | float) else kind
    problems.append(Problem(path, f"is {shown}, not {wanted}", cure or f"give {wanted}"))


def _is_allowed(value: Any, field: str, path: str, problems: list[Problem]) -> bool:
    choices, bounds = CHOICES.get(field), BOUNDS.get(field)
    if choices is not None and value not in choices:
        close = difflib.get_close_matches(str(value), choices, n=1)
        cure = f"did you mean {close[0]}?" if close else f"there are {', '.join(filter(None, choices))}"
        problems.append(Problem(path, f"is {value!r}, which the API does not know", cure))
        return False
    if bounds is not None and not bounds[0] <= value <= bounds[1]:
        limit = f"at least {bounds[0]}" if value < bounds[0] else f"at most {bounds[1]}"
        problems.append(Problem(path, f"is {value}", f"it must be {limit}"))
        return False
    return True
