"""What a person decides about workers on a cluster: typed, frozen, checked where it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from . import names, quantity
from .errors import KubernetesError

T = TypeVar("T")


class ValuesError(KubernetesError, ValueError):
    """A value is wrong; the message names its path, the rule and the cure."""


def _quantity(text: str) -> str:
    if quantity.amount(text) < 0:
        raise ValueError("must not be negative")
    return text


def _number_as_text(value: object) -> object:
    """Whole numbers and fractions are quantities too; YAML reads them as numbers."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _object_name(text: str) -> str:
    if not names.is_subdomain(text):
        raise ValueError(
            "must be lower-case letters, digits, hyphens and dots, beginning and ending with a letter or digit"
        )
    return text


def _short_name(text: str) -> str:
    if not names.is_label(text):
        raise ValueError(
            "must be at most 63 lower-case letters, digits and hyphens, beginning and ending with a letter or digit"
        )
    return text


def _folder(text: str) -> str:
    if not text.startswith("/") or ".." in text.split("/") or ":" in text:
        raise ValueError("must be an absolute path without '..' and ':', such as /data")
    return text.rstrip("/") or "/"


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Quantity = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_quantity)]
ObjectName = Annotated[str, AfterValidator(_object_name)]
ShortName = Annotated[str, AfterValidator(_short_name)]
Folder = Annotated[str, AfterValidator(_folder)]
Items = Annotated[tuple[T, ...], BeforeValidator(_as_tuple)]
Map = Annotated[Mapping[str, T], AfterValidator(MappingProxyType)]
Plain = str | int | float | bool
"""A setting as YAML gives it."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class Secret(_Section):
    """Keys of a Secret that exists already, as environment variables."""

    name: ObjectName
    env: Map[str] = Field(description="variable: key")
    optional: bool = False


class Mount(_Section):
    """A folder in the pods: on a claim, or on the node where that is asked for."""

    path: Folder
    claim: ObjectName | None = None
    host_path: Folder | None = None
    sub_path: str | None = None
    read_only: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Mount:
        if (self.claim is None) == (self.host_path is None):
            raise ValueError("name either a claim (of a PersistentVolume) or a host_path (a folder of the node)")
        return self


class NodeRequirement(_Section):
    """A label that a node must have."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = "In"
    values: Items[str] = ()


class NodePreference(NodeRequirement):
    """A label that a node should rather have."""

    weight: int = Field(default=100, ge=1, le=100)


class Toleration(_Section):
    """A taint of nodes that the pods put up with."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: int | None = None


class Code(_Section):
    """How one's own packages come into a pod."""

    source: Literal["image", "git", "pvc"] = "image"
    packages: Items[str] = ()
    folder: str = Field(default="", description="where the packages lie: in the image, the repository or the claim")
    repository: str | None = None
    commit: str | None = None
    secret: ObjectName | None = None
    image: str | None = None
    claim: ObjectName | None = None


class Group(_Section):
    """Workers that are alike: one Job."""

    workers: int = Field(default=1, ge=1, le=100_000)
    processes: int | None = Field(default=None, ge=1)
    gpus: int = Field(default=0, ge=0)
    gpu_resource: str = "nvidia.com/gpu"
    gpu_memory: Quantity | None = None
    cpus: Quantity = "2"
    memory: Quantity = "8Gi"
    shm: Quantity = "1Gi"
    tmp: Quantity = "4Gi"
    scratch: Quantity = "20Gi"
    command: Items[str] | None = None
    args: Items[str] | None = None
    env: Map[str] = Field(default={})
    settings: Map[Plain] = Field(default={})
    mounts: Map[Mount] = Field(default={})
    node_selector: Map[str] = Field(default={})
    required_nodes: Items[NodeRequirement] = ()
    preferred_nodes: Items[NodePreference] = ()
    tolerations: Items[Toleration] = ()
    queue: str | None = None
    suspend: bool | None = None
    priority_class: ObjectName | None = None
    runtime_class: ObjectName | None = None
    deadline_seconds: int | None = Field(default=None, ge=1)
    ttl_seconds: int | None = Field(default=7 * 24 * 3600, ge=0)
    grace_seconds: int = Field(default=60, ge=1)
    retries: int = Field(default=10, ge=0)
    max_failed: int | None = Field(default=None, ge=0)
    host_network: bool = False


class Values(_Section):
    """Everything about the workers of a project."""

    name: ShortName = "trainloom"
    namespace: ShortName | None = None
    image: str
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: Items[ObjectName] = ()
    labels: Map[str] = Field(default={})
    annotations: Map[str] = Field(default={})
    settings: Map[Plain] = Field(default={})
    secrets: Items[Secret] = ()
    service_account: ObjectName | None = None
    user: int = Field(default=10001, ge=1)
    code: Code = Code()
    worker: Group = Group()
    groups: Map[Group] = Field(default={})

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        defaults: Mapping[str, Any] | None = None,
    ) -> Values:
        """The values of a file, with others put over and under them.

        Parameters
        ----------
        path : a YAML file; none: defaults alone.
        overrides : values by dotted path, such as ``{"worker.gpus": 1}``; a dot within a name is written ``\\.``.
        defaults : nested values that count where the file says nothing.

        Raises
        ------
        ValuesError
            If the file cannot be read or a value is wrong.
        """
        raw = _merged(dict(defaults or {}), _read(path) if path is not None else {})
        for where, value in (overrides or {}).items():
            _assign(raw, where, value)
        try:
            groups = {
                name: _merged(raw.get("worker") or {}, group or {}) for name, group in (raw.get("groups") or {}).items()
            }
            return cls.model_validate({**raw, "groups": groups})
        except ValidationError as error:
            raise ValuesError(_sentence(error)) from None

    def jobs(self) -> Mapping[str, Group]:
        """The workers' groups by the name of their Job."""
        if not self.groups:
            return {self.name: self.worker}
        return {f"{self.name}-{name}": group for name, group in self.groups.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValuesError(f"the values file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValuesError(f"the values file {path} is not valid YAML") from error
    if not isinstance(content or {}, dict):
        raise ValuesError(f"the values file {path} must hold `name: value` lines, not a {type(content).__name__}")
    return dict(content or {})


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _assign(raw: dict[str, Any], where: str, value: object) -> None:
    *parents, last = (part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", where))
    for name in parents:
        raw[name] = raw = dict(raw.get(name) or {})
    raw[last] = value


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
