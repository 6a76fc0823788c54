"""What a MongoDB driver's errors mean for a store, and which of them pass by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from gridfs.errors import CorruptGridFile
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from .errors import StoreError, StoreUnavailable

Result = TypeVar("Result")

FAILOVER = 30.0  # s that an upload under way waits for another primary; an election takes about 12
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # s between two tries
LOOK = "look into the log of the server, and whether its disk is full"

DUPLICATE_KEY = 11000
# A server is shutting down, cannot be reached by the others or is not the primary any more: the codes of
# https://github.com/mongodb/specifications/blob/master/source/retryable-writes/retryable-writes.md
# and 211, of a member that came up lately and does not know yet the keys with which times are signed.
PASSING = frozenset({6, 7, 89, 91, 189, 211, 262, 9001, 10107, 11600, 11602, 13435, 13436})
_REFUSED = (13, 18)  # Unauthorized and AuthenticationFailed


class MongoErrors:
    """Speaks for one store.

    Parameters
    ----------
    where : callable
        Names the store, without secrets.
    """

    def __init__(self, where: Callable[[], str]) -> None:
        self.where = where

    def patiently(self, action: Callable[[], Result]) -> Result:
        """Do what is harmless to repeat, again while a primary is lost and another one is elected, within `FAILOVER`.

        The driver itself tries most writes only once more, and that may still be too early.
        """
        with self.translated():
            deadline, delay = None, FIRST_DELAY
            while True:
                try:
                    return action()
                except PyMongoError as error:
                    deadline = deadline or time.monotonic() + FAILOVER
                    if not _passes(error) or time.monotonic() + delay > deadline:
                        raise
                time.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Say the driver's errors as errors of the store; `CorruptGridFile`, which is about one object, stays."""
        try:
            yield
        except ConnectionFailure as error:
            raise StoreUnavailable(
                f"Cannot reach {self.where()}: start the server, or correct its address or its TLS settings"
            ) from error
        except CorruptGridFile:
            raise
        except OperationFailure as error:
            if error.code in _REFUSED:
                raise StoreUnavailable(
                    f"This user may not use {self.where()}: "
                    "correct user and password, or have the role readWrite granted"
                ) from error
            raise StoreUnavailable(f"Cannot use {self.where()} ({error}): {LOOK}") from error
        except PyMongoError as error:
            raise StoreError(f"Cannot use {self.where()} ({error}): correct its URL or settings") from error


def _passes(error: PyMongoError) -> bool:
    if isinstance(error, ServerSelectionTimeoutError):  # the driver has waited for an election already
        return False
    code = getattr(error, "code", None)
    return isinstance(error, ConnectionFailure) or error.has_error_label("RetryableWriteError") or code in PASSING
