"""Objects of a kind as they are now: listed once, then kept up to date by a watch that survives what cuts it off."""

from __future__ import annotations

import random
import threading
import time
from typing import Any, Self

from .api import Api, ApiError, Expired
from .errors import KubernetesError
from .resource import Resource

FIRST_PAUSE = 0.2  # s before a watch that broke is begun again; doubled while it keeps breaking
LONGEST_PAUSE = 15.0  # s


class Watched:
    """The objects of a kind that a selector chooses, watched by a thread; a context manager that ends the watch.

    Attributes
    ----------
    changed : set whenever something has changed, also by the failure that ends the watch; whoever waits clears it.
    """

    def __init__(self, api: Api, resource: Resource, *, labels: str = "", changed: threading.Event) -> None:
        """List the objects, and begin to watch them; raises what the list raises."""
        self.changed = changed
        self._api, self._resource, self._labels = api, resource, labels
        self._lock = threading.Lock()
        self._objects: dict[str, dict[str, Any]] = {}
        self._failure: KubernetesError | None = None
        self._closed = threading.Event()
        version = self._list()
        # A daemon: it waits for a server that may have nothing to say for minutes.
        threading.Thread(target=self._follow, args=(version,), name=f"watch {resource.plural}", daemon=True).start()

    def objects(self) -> list[dict[str, Any]]:
        """The objects as they are now, by name; raises the failure that ended the watch."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            return [self._objects[name] for name in sorted(self._objects)]

    def close(self) -> None:
        """Watch no more: the thread ends with what the server sends next, or where it would try again."""
        self._closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _list(self) -> str:
        listing = self._api.list(self._resource, labels=self._labels)
        with self._lock:
            self._objects = {thing["metadata"]["name"]: thing for thing in listing.items}
        self.changed.set()
        return listing.version

    def _follow(self, version: str) -> None:
        pause = FIRST_PAUSE
        try:
            while not self._closed.is_set():
                before, began = version, time.monotonic()
                try:
                    if not version:
                        version = before = self._list()
                    for kind, thing in self._api.watch(self._resource, version, labels=self._labels):
                        version = thing["metadata"]["resourceVersion"]
                        self._take(kind, thing)
                        if self._closed.is_set():
                            return
                except Expired:
                    version = before = ""
                except ApiError as error:
                    if not error.is_transient:
                        raise
                served = version != before or time.monotonic() - began > LONGEST_PAUSE
                pause = FIRST_PAUSE if served else min(LONGEST_PAUSE, 2 * pause)
                self._closed.wait(pause * random.SystemRandom().uniform(0.75, 1.25))
        except KubernetesError as error:
            with self._lock:
                self._failure = error
            self.changed.set()

    def _take(self, kind: str, thing: dict[str, Any]) -> None:
        if kind == "BOOKMARK":
            return
        with self._lock:
            if kind == "DELETED":
                self._objects.pop(thing["metadata"]["name"], None)
            else:
                self._objects[thing["metadata"]["name"]] = thing
        self.changed.set()
