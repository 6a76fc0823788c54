"""A client of MongoDB with the durability that the store relies on; its URL has the last word."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymongo
from pymongo.errors import PyMongoError

from pipeline.errors import ConfigurationError

SELECTION_TIMEOUT = 10_000  # ms, to find a server
ELECTION_FACTOR = 3  # a replica set takes about 12 s to elect another primary
SOCKET_TIMEOUT = 300_000  # ms without an answer after which a server that once answered is taken for lost


def open_client(url: str, selection_timeout: int = SELECTION_TIMEOUT) -> pymongo.MongoClient[Any]:
    """A client of the server or replica set that `url` names; it connects at its first use.

    TLS, users, read preference, staleness, write concern and time-outs are options of the URL. Where it does not say
    otherwise, writes wait for the majority, so that what was written survives the loss of a primary, and
    `selection_timeout` (ms) is how long a server is looked for, thrice that for a replica set.

    Raises
    ------
    ConfigurationError
        If the URL, an option of it or a certificate that it names is not usable; the message holds no secret.
    """
    given = {name.lower() for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    several = "replicaset" in given or "," in url.partition("?")[0] or url.startswith("mongodb+srv:")
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": selection_timeout * (ELECTION_FACTOR if several else 1),
        "socketTimeoutMS": SOCKET_TIMEOUT,
        "w": "majority",
        "appname": "trainloom",
    }
    own: dict[str, Any] = {name: value for name, value in options.items() if name.lower() not in given}
    try:
        return pymongo.MongoClient(url, tz_aware=True, **own)
    except (PyMongoError, ValueError, TypeError, OSError) as error:
        # Not chained: the driver's own error may repeat a part of the URL.
        raise ConfigurationError(f"mongo_url cannot be used: {_without_secrets(str(error), url)}; correct it") from None


def _without_secrets(text: str, url: str) -> str:
    """A driver's message without the passwords of the URL it is about."""
    userinfo = url.partition("://")[2].rpartition("@")[0]
    values = [value for name, value in parse_qsl(urlsplit(url).query) if "password" in name.lower()]
    for secret in (userinfo.partition(":")[2], *userinfo.split(":")[1:], *values):
        for form in (secret, unquote(secret)):
            text = text.replace(form, "***") if form else text
    return text
