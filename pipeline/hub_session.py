"""The session behind a TensorHub: the one that is open, or one on the MongoDB server that its arguments name."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

from . import session as door
from .errors import SessionError
from .session import Session
from .settings import Settings, without_password

logger = logging.getLogger("trainloom")

DEFAULT_PORT = 27017  # MongoDB's


def session_for(
    ip: str | None,
    port: int | None,
    dbname: str | None,
    username: str | None,
    password: str | None,
    project_name: str | None,
) -> tuple[Session, bool]:
    """A session, and whether it was opened here.

    Raises
    ------
    SessionError
        If a session of another project or on another server is open.
    ConfigurationError
        If the servers cannot be used.
    """
    if username is None and password is not None and ip is not None:
        logger.warning("TensorHub was given a password without a username; it is ignored")
    overrides: dict[str, Any] = {}
    if ip is not None:
        overrides["mongo_url"] = SecretStr(mongo_url(ip, port, username, password))
    if dbname is not None:
        overrides["mongo_database"] = dbname
    if project_name is not None:
        overrides["project"] = project_name
    if door._open is None:
        return door.connect(Settings.load(overrides)), True
    _compare(door._open.settings, overrides)
    return door._open, False


def mongo_url(ip: str, port: int | None, username: str | None, password: str | None) -> str:
    """The URL of a server; `ip` is a host, an address, or the path of a Unix socket."""
    credentials = "" if username is None else f"{quote_plus(username)}:{quote_plus(password or '')}@"
    if ip.startswith("/"):
        return f"mongodb://{credentials}{quote(ip, safe='')}"
    host = f"[{ip}]" if ":" in ip else ip
    return f"mongodb://{credentials}{host}:{DEFAULT_PORT if port is None else port}"


def _compare(settings: Settings, wanted: dict[str, Any]) -> None:
    """Refuse what the open session is not."""
    for name, value in wanted.items():
        open_value = getattr(settings, name)
        if open_value == value:
            continue
        if open_value is None:
            logger.warning("the open session has a MongoDB of its own; ip, port, username and password are ignored")
            continue
        shown, given = (
            without_password(one.get_secret_value()) if isinstance(one, SecretStr) else one
            for one in (open_value, value)
        )
        raise SessionError(
            f"the open session has {name} {shown}, TensorHub was asked for {given}; close that session first"
        )
