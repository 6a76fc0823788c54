"""The project's MongoDB database, as any process of the project reaches it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from .errors import SessionError
from .settings import without_password
from .store.mongo_client import open_client

BLOCKS = "blocks"  # the folder in the node's cache that keeps examples


@dataclass(eq=False)
class MongoDatabase:
    """Opens the database; datasets are lent it, see `datasets_impl.mongo_access.MongoAccess`.

    It reaches other processes through a pipe and nothing else; its text masks the URL.

    Attributes
    ----------
    url : of the server, with its secrets.
    database_name : of the database.
    prefix : what the names of the project's own collections begin with.
    cache_folder : where blocks of examples are kept on this node.
    cache_bytes : limit of their bytes.
    patience : s that a server may be away before the reading of examples ends with an error.
    selection_timeout : ms for which a server is looked for at a time.
    """

    url: SecretStr
    database_name: str
    prefix: str
    cache_folder: Path
    cache_bytes: int
    patience: float
    selection_timeout: int
    _clients: dict[int, Any] = field(default_factory=dict, init=False, repr=False)
    _closed: bool = field(default=False, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_clients": {}}

    @property
    def name(self) -> str:
        """The database without secrets."""
        return f"MongoDB at {without_password(self.url.get_secret_value())}, database {self.database_name}"

    def database(self) -> Any:
        """The database of this process; its client is made at the first call and lives until `close`.

        Raises
        ------
        SessionError
            After `close`: a thread that still reads ahead must not open another client.
        """
        if self._closed:
            raise SessionError("the session is closed, and with it its MongoDB; open another one")
        process = os.getpid()  # a client must not be used across a fork
        if process not in self._clients:
            made = open_client(self.url.get_secret_value(), self.selection_timeout)
            if self._clients.setdefault(process, made) is not made:
                made.close()  # another thread was quicker; a lock would have to survive forks
        return self._clients[process][self.database_name]

    def close(self) -> None:
        """End this process's client, for good."""
        self._closed = True
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()
