"""What a person decides about workers on a cluster: typed, frozen, checked where it is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from . import values_file
from .value_error import ValuesError, explained
from .value_types import (
    Annotations,
    Commit,
    Folder,
    Inside,
    Items,
    LabelKey,
    Labels,
    LabelValue,
    Named,
    ObjectName,
    Quantity,
    Settings,
    ShortName,
    Texts,
)

__all__ = ["Code", "Group", "Mount", "Scaling", "Secret", "Toleration", "Values", "ValuesError"]

WEEK = 7 * 24 * 3600  # s
OWN_SETTINGS = {"grace_seconds": "grace_seconds", "progress_file": None, "worker_processes": "processes"}
"""Settings that the values decide otherwise, and by which field."""
OWN_VOLUMES = frozenset({"tmp", "shm", "scratch", "code", "code-credentials"})
SERVERS = (("database_url", "database_host"), ("mongo_url", "store_dir"))
"""Settings of which one must be known to a worker in a pod."""


def _foreign(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, field in OWN_SETTINGS.items():
        if name in settings:
            raise ValueError(f"has {name}, which {f'the value {field} sets' if field else 'is set anyway'}; remove it")
    return settings


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class Secret(_Section):
    """Keys of a Secret, which exists already, as environment variables."""

    name: ObjectName = Field(description="of the Secret")
    env: Texts = Field(description="variable: key of the Secret")
    optional: bool = Field(default=False, description="pods start without it too")


class Mount(_Section):
    """A folder in the pods: on a PersistentVolumeClaim or, where that is asked for, on the node."""

    path: Folder = Field(description="where it is in the pods")
    claim: ObjectName | None = Field(default=None, description="of a PersistentVolume")
    host_path: Folder | None = Field(default=None, description="a folder of the node; many namespaces forbid it")
    sub_path: Inside | None = Field(default=None, description="a folder within it instead of all")
    read_only: bool = Field(default=False, description="pods cannot write to it")

    @model_validator(mode="after")
    def _one_source(self) -> Mount:
        if (self.claim is None) == (self.host_path is None):
            raise ValueError("needs either a claim (of a PersistentVolume) or a host_path (a folder of the node)")
        return self


class NodeRequirement(_Section):
    """A label that a node must have."""

    key: LabelKey = Field(description="of the label")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(
        default="In", description="how it is compared"
    )
    values: Items[LabelValue] = Field(default=(), description="with what; one whole number for Gt and Lt")


class NodePreference(NodeRequirement):
    """A label that a node should rather have."""

    weight: int = Field(default=100, ge=1, le=100, description="how much that counts")


class Toleration(_Section):
    """A taint of nodes that the pods put up with."""

    key: LabelKey | None = Field(default=None, description="of the taint; none with Exists: all taints")
    operator: Literal["Equal", "Exists"] = Field(default="Equal", description="how it is compared")
    value: LabelValue | None = Field(default=None, description="of the taint, with Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="of the taint; none: all"
    )
    seconds: int | None = Field(default=None, ge=0, description="how long a pod stays, with NoExecute")


class Code(_Section):
    """How packages of one's own come into a pod."""

    source: Literal["image", "git", "pvc"] = Field(
        default="image", description="built into the image, fetched at the start, or on a claim"
    )
    packages: Items[str] = Field(default=(), description="their roots, which rows may name")
    folder: str = Field(default="", description="where the roots are: in the image, the repository or the claim")
    repository: str | None = Field(default=None, description="git: its https:// address, without user and password")
    commit: Commit | None = Field(default=None, description="git: all 40 digits")
    secret: ObjectName | None = Field(
        default=None, description="git: a Secret with user and password or token, for private repositories"
    )
    username_key: str = Field(default="username", min_length=1, description="git: its key with the user")
    password_key: str = Field(default="password", min_length=1, description="git: its key with the password")
    image: str | None = Field(default=None, description="git: an image with git, a shell and timeout")
    claim: ObjectName | None = Field(default=None, description="pvc: of a PersistentVolume")

    @field_validator("packages")
    @classmethod
    def _roots(cls, packages: tuple[str, ...]) -> tuple[str, ...]:
        for name in packages:
            if not name.isidentifier():
                raise ValueError(f"{name!r} is no root of a package; give names such as my_lab")
        return packages

    @field_validator("repository")
    @classmethod
    def _address(cls, repository: str | None) -> str | None:
        if repository is not None:
            scheme, _, rest = repository.partition("://")
            if scheme not in ("https", "http") or not rest:
                raise ValueError("must begin with https://")
            if "@" in rest.partition("/")[0]:
                raise ValueError("must not hold a user or password; put them into a Secret and name it as code.secret")
        return repository

    @model_validator(mode="after")
    def _fits(self) -> Code:
        needed = {"image": (), "git": ("repository", "commit", "image"), "pvc": ("claim",)}[self.source]
        for field in needed:
            if getattr(self, field) is None:
                raise ValueError(f"needs {field}, where source is {self.source}")
        for field in ("repository", "commit", "image", "secret", "claim"):
            if getattr(self, field) is not None and field not in (*needed, *(("secret",) if needed[1:] else ())):
                raise ValueError(f"has {field}, which counts nothing where source is {self.source}; remove it")
        if self.source != "image" and (self.folder.startswith("/") or ".." in self.folder.split("/")):
            raise ValueError(f"has the folder {self.folder!r}; give one within the repository or claim, such as src")
        if self.secret is not None and not (self.repository or "").startswith("https://"):
            raise ValueError("has a secret, which only https:// keeps; correct the repository's address")
        return self


class Subject(_Section):
    """Somebody who gets rights."""

    kind: Literal["User", "Group", "ServiceAccount"] = Field(description="of account")
    name: str = Field(min_length=1, description="of the account")
    namespace: ShortName | None = Field(default=None, description="of a ServiceAccount; none: that of the objects")


class Scaling(_Section):
    """KEDA starts a Job for every waiting task, up to the number of workers."""

    secret: ObjectName = Field(description="the Secret with the database's address")
    key: str = Field(default="TRAINLOOM_DATABASE_URL", description="its key: a postgresql:// URL")
    polling_seconds: int = Field(default=30, ge=1, description="how often KEDA counts them")


class Group(_Section):
    """Workers that are alike: one Job, each of its indexes a worker in a pod of its own."""

    workers: int = Field(default=1, ge=1, le=10_000, description="pods, each with a worker")
    processes: int | None = Field(
        default=None, ge=1, description="worker processes in a pod; none: one for each GPU. 1 for tasks with `devices`"
    )
    options: Items[str] = Field(default=(), description="more arguments of `trainloom worker`")
    watch: bool = Field(default=False, description="wait for new tasks for ever instead of ending when none is left")
    gpus: int = Field(default=0, ge=0, le=64, description="GPUs of a pod")
    gpu_resource: LabelKey = Field(default="nvidia.com/gpu", description="what the cluster calls them; MIG has others")
    gpu_memory: Quantity | None = Field(
        default=None, description="that a GPU must have by the label of GPU feature discovery; 8 % less will do"
    )
    cpus: Quantity = Field(default="2", description="cores of a pod")
    memory: Quantity = Field(default="8Gi", description="of a pod, shm included")
    shm: Quantity = Field(default="1Gi", description="`/dev/shm`, through which loader processes hand over batches")
    tmp: Quantity = Field(default="4Gi", description="`/tmp`, on the node's disk")
    scratch: Quantity = Field(default="20Gi", description="cached data, checkpoints on their way; on the node's disk")
    command: Items[str] | None = Field(default=None, description="instead of `trainloom worker …`")
    args: Items[str] | None = Field(default=None, description="of the command")
    env: Texts = Field(default={}, description="more variables")
    settings: Settings = Field(default={}, description="settings that differ from those of all groups")
    mounts: Named[Mount] = Field(default={}, description="folders by name")
    node_selector: Labels = Field(default={}, description="labels that nodes must have")
    required_nodes: Items[NodeRequirement] = Field(default=(), description="node affinity: all of these must hold")
    preferred_nodes: Items[NodePreference] = Field(default=(), description="node affinity: these should hold")
    tolerations: Items[Toleration] | None = Field(
        default=None, description="of taints; none: that of nodes with GPUs, where GPUs are asked for"
    )
    queue: LabelValue | None = Field(default=None, description="Kueue's LocalQueue, which then starts the Job")
    suspend: bool | None = Field(default=None, description="made, but not started; none: true with a queue")
    priority_class: ObjectName | None = Field(default=None, description="of the pods")
    runtime_class: ObjectName | None = Field(default=None, description="of the pods, such as nvidia")
    deadline_seconds: int | None = Field(default=None, ge=1, description="after which the Job is ended")
    ttl_seconds: int | None = Field(default=WEEK, ge=0, description="after its end, when the Job is deleted")
    grace_seconds: int = Field(default=60, ge=1, description="that a worker told to stop may take to save")
    retries: int = Field(default=10, ge=0, description="pods that may fail in the place of one worker")
    max_failed: int | None = Field(
        default=None, ge=0, description="workers that may fail for good before the others are ended; none: all"
    )
    misconfigured: Literal["FailIndex", "FailJob"] = Field(
        default="FailIndex", description="what exit code 78 ends: only that worker, or the Job"
    )
    liveness: bool = Field(default=True, description="replace workers that have shown no life for long")
    host_network: bool = Field(default=False, description="the node's network; many namespaces forbid it")
    peers: bool = Field(
        default=False, description="a headless Service: pods find each other as `JOB-0.JOB`, `JOB-1.JOB`, …"
    )
    autoscale: Scaling | None = Field(default=None, description="a KEDA ScaledJob instead of a Job")

    @field_validator("settings")
    @classmethod
    def _no_own_settings(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return _foreign(settings)

    @field_validator("mounts")
    @classmethod
    def _no_own_mounts(cls, mounts: Mapping[str, Mount]) -> Mapping[str, Mount]:
        for name in OWN_VOLUMES & set(mounts):
            raise ValueError(f"has {name!r}, which every pod has anyway; give it another name")
        return mounts

    @model_validator(mode="after")
    def _fits(self) -> Group:
        if self.gpu_memory is not None and not self.gpus:
            raise ValueError("has gpu_memory, but no gpus; give their number")
        if self.gpu_memory is not None and not self.gpu_resource.startswith("nvidia.com/"):
            raise ValueError("has gpu_memory, which only NVIDIA's nodes are labelled with; use required_nodes")
        if self.command is not None and (self.options or self.watch or self.processes):
            raise ValueError("has a command of its own, beside which options, watch and processes count nothing")
        if self.autoscale is not None and (self.queue or self.suspend or self.peers):
            raise ValueError("has autoscale, beside which queue, suspend and peers count nothing; remove them")
        if self.max_failed is not None and self.max_failed > self.workers:
            raise ValueError(f"has max_failed {self.max_failed}, more than its {self.workers} workers")
        return self


class Values(_Section):
    """Everything about the workers of a project on a cluster."""

    name: ShortName = Field(default="trainloom", description="of the objects, and what theirs begin with")
    namespace: ShortName | None = Field(default=None, description="none: that of the context")
    image: str = Field(min_length=1, description="of the workers, best with its digest")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="when nodes fetch it"
    )
    image_pull_secrets: Items[ObjectName] = Field(default=(), description="Secrets of private registries")
    labels: Labels = Field(default={}, description="more labels of all objects")
    annotations: Annotations = Field(default={}, description="of all objects")
    settings: Settings = Field(
        default={}, description="of the workers, in a ConfigMap; [settings.md](settings.md) lists them"
    )
    secrets: Items[Secret] | None = Field(
        default=None,
        description="credentials as variables; none: the URLs that settings lack, from the Secret NAME-servers",
    )
    submitters: Items[Subject] = Field(default=(), description="who else may submit, watch and scale")
    service_account: ObjectName | None = Field(
        default=None, description="of the pods; none: one without rights is made"
    )
    user: int = Field(default=10001, ge=1, description="number of the user, and group, that workers run as")
    code: Code = Field(default_factory=Code, description="packages of one's own")
    worker: Group = Field(default_factory=Group, description="the workers, or what all groups begin with")
    groups: Named[Group] = Field(default={}, description="several kinds of workers, a Job for each")

    @field_validator("settings")
    @classmethod
    def _no_own_settings(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return _foreign(settings)

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
        raw = values_file.merged(defaults or {}, values_file.read(path) if path is not None else {})
        for where, value in (overrides or {}).items():
            raw = values_file.assigned(raw, where, value)
        try:
            return cls.model_validate(values_file.with_groups(raw))
        except ValidationError as error:
            raise explained(error, cls) from None

    def jobs(self) -> Mapping[str, Group]:
        """The groups by the name of their Job."""
        if not self.groups:
            return {self.name: self.worker}
        return {f"{self.name}-{name}": group for name, group in self.groups.items()}

    def credentials(self) -> tuple[Secret, ...]:
        """The Secrets that the workers read: those given, or one with the addresses that the settings lack."""
        if self.secrets is not None:
            return self.secrets
        lacking = [
            f"TRAINLOOM_{names[0].upper()}" for names in SERVERS if not any(name in self.settings for name in names)
        ]
        return (Secret(name=f"{self.name}-servers", env={name: name for name in lacking}),) if lacking else ()
