"""One frozen settings object: command line > environment > files > defaults."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from . import pod
from .errors import ConfigurationError
from .reporters.value_format import ValueFormats

PREFIX = "TRAINLOOM_"
LOCAL_FOLDER = "trainloom.d"
SYSTEM_FOLDER = Path("/etc/trainloom")
FILE_SUFFIXES = (".yaml", ".yml", ".json")  # JSON is YAML
# Not settings of a project but switches of this package and its tools, under the same prefix.
OTHER_VARIABLES = frozenset({"TRAINLOOM_HOME", "TRAINLOOM_DEBUG", "TRAINLOOM_CONFIG", *pod.VARIABLES})
SCHEMES = {"postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mysql"}
DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306}


class Database(BaseModel):
    """Where a relational server is, as DataJoint wants it."""

    model_config = ConfigDict(frozen=True)

    backend: Literal["postgresql", "mysql"]
    host: str
    port: int
    user: str
    password: SecretStr = SecretStr("")
    name: str | None = None
    tls: bool | None = None

    @property
    def label(self) -> str:
        """The address without the password."""
        return f"{self.backend}://{self.user}@{self.host}:{self.port}/{self.name or ''}"


class Settings(BaseModel):
    """Everything that can be set. Secrets are masked when printed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str = Field("trainloom", description="name of the project: schema, bucket and collections carry it")
    schema_prefix: str = Field("", description="prefix of the database schema, for users with limited rights")
    database_url: SecretStr | None = Field(
        None, description="postgresql://user:password@host:port/name or mysql://…; empty: embedded PostgreSQL"
    )
    database_host: str | None = Field(None, description="host or host:port, where no URL is given (DJ_HOST)")
    database_user: str | None = Field(None, description="user name (DJ_USER)")
    database_password: SecretStr | None = Field(None, description="password (DJ_PASS)")
    database_backend: Literal["postgresql", "mysql"] = Field(
        "mysql", description="what database_host runs (DJ_BACKEND)"
    )
    database_tls: bool | None = Field(None, description="require (true) or refuse (false) TLS; empty: try it first")
    reconnect_seconds: float = Field(300.0, ge=0, description="how long a lost database connection is tried again, s")
    mongo_url: SecretStr | None = Field(None, description="mongodb://…; empty: embedded MongoDB")
    mongo_database: str = Field("trainloom", description="name of the MongoDB database")
    store: Literal["auto", "gridfs", "folder"] = Field(
        "auto", description="where objects are kept; auto: GridFS, or a folder where no mongod runs"
    )
    store_dir: Path | None = Field(None, description="folder of the folder store; empty: in the home")
    mirror_datasets: bool = Field(
        True, description="put data files into the store at insertion, so that every node can fetch them"
    )
    dataset_dir: Path | None = Field(None, description="where data files lie; empty: in the home")
    dataset_cache_dir: Path | None = Field(
        None, description="where data files are cached on the node; empty: in the home"
    )
    dataset_cache_bytes: int = Field(50 * 2**30, gt=0, description="limit of the node cache, bytes")
    model_save_dir: Path | None = Field(
        None, description="where weights are written before they are uploaded; empty: in the home"
    )
    allowed_packages: tuple[str, ...] = Field((), description="package roots of one's own that rows may name")
    code_dir: Path | None = Field(
        None, description="folder that one's own packages are imported from; empty: the working folder"
    )
    num_workers: int = Field(0, ge=0, description="loader processes per training")
    reporter: Literal["auto", "terminal", "plain", "notebook", "none"] = Field(
        "auto", description="how trainings are shown while they run; auto: as suits where they run"
    )
    value_formats: tuple[str, ...] = Field(
        (), description="formats of values shown, such as accuracy=percent: raw, percent, hidden, or Python's .2e"
    )
    moving_average: int = Field(5, ge=1, description="epochs over which shown values are averaged too; 1: none")
    tensorboard_dir: Path | None = Field(None, description="folder to write TensorBoard files to; empty: none")
    keep_last_state: bool | None = Field(
        None,
        description="keep the last state of trainings, for others to go on from, where rows leave it open; empty: "
        "where it costs next to nothing",
    )
    device: str = Field("auto", description="torch device; auto: cuda where it is usable, else cpu")
    gpu_memory: ByteSize | None = Field(
        None, description="free memory that a GPU must have, such as 11Gi; empty: the GPU with the most is taken"
    )
    memory: ByteSize | None = Field(
        None,
        description="memory that the trainings here may have together, such as 64Gi; empty: the container's limit",
    )
    torch_threads: int | None = Field(
        None, ge=1, description="torch threads per worker; empty: cores divided by worker processes"
    )
    heartbeat_seconds: float = Field(15.0, gt=0, description="how often a worker shows life, s")
    lease_seconds: float = Field(60.0, gt=0, description="age of the last sign of life that ends a worker's lease, s")
    stall_seconds: float = Field(1800.0, gt=0, description="how long a living training may go without a step, s")
    progress_file: Path | None = Field(
        None, description="file by which `python -m pipeline.liveness` sees that a worker gets on; empty: none"
    )
    store_away_seconds: float = Field(600.0, gt=0, description="how long the store may be away meanwhile, s")
    max_attempts: int = Field(3, ge=1, description="failures after which a task is set aside")
    retry_seconds: float = Field(
        30.0, ge=0, description="delay before the second try; later ones wait 4 times as long, s"
    )
    grace_seconds: float = Field(25.0, ge=0, description="how long a stopping worker may take to save, s; 0: no limit")
    allow_scripts: bool | None = Field(
        None, description="run script tasks, which are code out of rows; empty: only with embedded servers"
    )
    poll_seconds: float = Field(5.0, gt=0, description="how often a worker without work looks for some, s")
    worker_processes: int = Field(1, ge=1, description="worker processes on this machine that share its cores")

    aliases: ClassVar[Mapping[str, str]] = {
        "DJ_HOST": "database_host",
        "DJ_USER": "database_user",
        "DJ_PASS": "database_password",
        "DJ_BACKEND": "database_backend",
    }

    @field_validator("allowed_packages", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part for part in re.split(r"[,:\s]+", value) if part) if isinstance(value, str) else value

    @field_validator("gpu_memory", "memory", mode="before")
    @classmethod
    def _bytes_of_kubernetes(cls, value: Any) -> Any:
        """``11Gi``, as Kubernetes writes it, is 11 GiB."""
        return f"{value.strip()}B" if isinstance(value, str) and value.strip().endswith("i") else value

    @field_validator("value_formats", mode="before")
    @classmethod
    def _assignments(cls, value: Any) -> Any:
        return tuple(part for part in re.split(r"[,;\s]+", value) if part) if isinstance(value, str) else value

    @field_validator("value_formats")
    @classmethod
    def _formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        ValueFormats(value)  # raises a ValueError that says what is wrong
        return value

    @field_validator("allowed_packages")
    @classmethod
    def _package_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not name.isidentifier() or name == "__main__":
                raise ValueError(f"{name!r} is no package root; give names such as my_models")
        return value

    @field_validator("project", "schema_prefix")
    @classmethod
    def _schema_name(cls, value: str) -> str:
        if value and not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", value):
            raise ValueError(
                "use lower-case letters, digits and underscores, starting with a letter, at most 31 characters"
            )
        return value

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Settings:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("lease_seconds must be at least twice heartbeat_seconds, or one late beat loses a task")
        return self

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        *,
        config: Path | None = None,
        env: Mapping[str, str] = os.environ,
    ) -> Settings:
        """The settings of this process.

        Parameters
        ----------
        overrides : values from the command line or a caller; None values do not count.
        config : a file that comes before the folders.

        Raises
        ------
        ConfigurationError
            If a file cannot be read or a value is wrong; the message names the setting and where it came from.
        """
        given = {name: value for name, value in (overrides or {}).items() if value is not None}
        merged: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for where, layer in (*layers(config, env), ("the command line", given)):
            for name, value in layer.items():
                if name not in cls.model_fields:
                    raise ConfigurationError(
                        f"{where} sets {name!r}, which is no setting; see `trainloom doctor --settings`"
                    )
                merged[name], origin[name] = value, where
        try:
            return cls(**merged)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            where = f" from {origin[name]}" if name in origin else ""
            raise ConfigurationError(f"{name}{where}: {first['msg']}") from None

    @property
    def schema_name(self) -> str:
        """The database schema of the project."""
        return f"{self.schema_prefix}{self.project}"

    @property
    def database(self) -> Database | None:
        """The relational server, or None for the embedded one."""
        if self.database_url is not None:
            return _parse_database_url(self.database_url.get_secret_value(), self.database_tls)
        if self.database_host is None:
            return None
        host, _, port = self.database_host.partition(":")
        if port and not port.isdigit():
            raise ConfigurationError(f"database_host {self.database_host!r} has no valid port; write host or host:port")
        return Database(
            backend=self.database_backend,
            host=host,
            port=int(port) if port else DEFAULT_PORTS[self.database_backend],
            user=self.database_user or "",
            password=self.database_password or SecretStr(""),
            tls=self.database_tls,
        )


def _parse_database_url(url: str, tls: bool | None) -> Database:
    parts = urlsplit(url)
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise ConfigurationError(
            "database_url has a '/', '?' or '#' in its user or password; write it as %2F, %3F or %23"
        )
    backend = SCHEMES.get(parts.scheme.partition("+")[0])
    if backend is None:
        raise ConfigurationError("database_url must begin with postgresql:// or mysql://")
    try:
        port = parts.port
    except ValueError as error:
        raise ConfigurationError("database_url has no valid port") from error
    if not parts.hostname:
        raise ConfigurationError("database_url names no host; write postgresql://user:password@host:port/name")
    name = unquote(parts.path.lstrip("/")) or None
    return Database(
        backend=backend,  # type: ignore[arg-type]
        host=unquote(parts.hostname),
        port=port or DEFAULT_PORTS[backend],
        user=unquote(parts.username or ""),
        password=SecretStr(unquote(parts.password or "")),
        name=name if backend == "postgresql" else None,
        tls=tls,
    )


def without_password(url: str) -> str:
    """A URL fit for messages and logs, also where its password holds characters that should have been escaped; without
    its options, which may hold passwords too."""
    scheme, separator, rest = url.partition("://")
    userinfo, at, host = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    shown = f"{user}:***" if at and colon else userinfo
    return f"{scheme}{separator}{shown}{at}{host.partition('?')[0]}"


def layers(config: Path | None, env: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What is set where, the weakest first: pairs of a source as messages name it and its values by setting."""
    yield from _file_layers(config)
    for variable, name in Settings.aliases.items():
        if env.get(variable):
            yield f"the environment variable {variable}", {name: env[variable]}
    for variable, value in env.items():
        if variable.startswith(PREFIX) and variable not in OTHER_VARIABLES and value != "":
            yield f"the environment variable {variable}", {variable.removeprefix(PREFIX).lower(): value}


def _file_layers(config: Path | None) -> Iterable[tuple[str, Mapping[str, Any]]]:
    folders = (SYSTEM_FOLDER, Path(LOCAL_FOLDER))
    files = [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix in FILE_SUFFIXES
    ]
    if config is not None:
        files.append(config)
    for path in files:
        yield f"the file {path}", _read(path)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the settings file {path} is not valid YAML; write one `name: value` per line"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"the settings file {path} must hold `name: value` lines, not a {type(content).__name__}"
        )
    return {str(name): value for name, value in content.items()}
