"""Which settings of this project hold for its workers on a cluster: what it is, and not where things lie here."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from .errors import ConfigurationError
from .settings import PREFIX, Settings, layers, without_password

SHARED = (
    "project",
    "schema_prefix",
    "database_url",
    "database_host",
    "database_user",
    "database_backend",
    "database_tls",
    "mongo_url",
    "mongo_database",
    "store",
    "mirror_datasets",
    "allowed_packages",
    "allow_scripts",
    "reconnect_seconds",
    "heartbeat_seconds",
    "lease_seconds",
    "stall_seconds",
    "store_away_seconds",
    "max_attempts",
    "retry_seconds",
    "poll_seconds",
)
"""All others belong to a machine."""
ADDRESS = ("database_url", "database_host", "database_user")
ALIASES = {name: alias for alias, name in Settings.aliases.items()}


def shared_settings(
    settings: Settings,
    *,
    given: Collection[str] = (),
    secret: Collection[str] = (),
    config: Path | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Those that are set here and hold on a cluster too, and the names of those that hold a password and stay here.

    Parameters
    ----------
    settings : of this process.
    given : names of settings that were set on the command line.
    secret : variables that pods get from Secrets; what these tell is not taken from here.
    config : the file that was named.
    """
    there = {*given, *(name for _, layer in layers(config, os.environ) for name in layer)}
    elsewhere = {name for name in SHARED if {f"{PREFIX}{name.upper()}", ALIASES.get(name)} & set(secret)}
    if elsewhere & set(ADDRESS):
        elsewhere |= set(ADDRESS)  # one address, and not a half of each
    shared, withheld = {}, []
    for name in (name for name in SHARED if name in there and name not in elsewhere):
        value = getattr(settings, name)
        shown = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(value, SecretStr) and without_password(shown) != shown:
            withheld.append(name)
        elif shown is not None:
            shared[name] = list(shown) if isinstance(shown, tuple) else shown
    return shared, withheld


def check(settings: Mapping[str, Any], where: str) -> None:
    """Refuse here what pods would refuse.

    Raises
    ------
    ConfigurationError
        If one is no setting, or its value is not usable; the message names it after `where`.
    """
    for name in settings:
        if name not in Settings.model_fields:
            close = difflib.get_close_matches(name, Settings.model_fields, n=1)
            cure = f"did you mean {close[0]}?" if close else "`trainloom doctor --settings` lists them"
            raise ConfigurationError(f"{where}.{name} is no setting; {cure}")
    try:
        Settings.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join((where, *map(str, first["loc"][:1])))
        raise ConfigurationError(f"{name}: {first['msg']}") from None
