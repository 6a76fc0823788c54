"""A small Kubernetes API server over real HTTP: what the cluster does is played by the tests.

It keeps objects, answers selectors, watches, logs and access reviews as the real one does, checks fields strictly where
that is asked for, and can be told to refuse, to break off before or after it did what was asked, and to forget.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.fake_api_server import EVENTS, JOBS, NAMESPACE, PODS, TOKEN, Request, Server

__all__ = ["EVENTS", "JOBS", "NAMESPACE", "PODS", "TOKEN", "FakeCluster", "Fault", "Request"]


@dataclass
class Fault:
    """What happens to the next `times` requests that match; `when` it breaks off: before or after it is done."""

    method: str
    path: str
    status: int = 0
    retry_after: str = ""
    when: str = "before"
    times: int = 1


@dataclass
class Log:
    """What a container has written: lines with their times, and whether more may come."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    ended: bool = False
    previous: list[tuple[str, str]] = field(default_factory=list)


class FakeCluster:
    """One API server with one namespace."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        self.version = 0
        self.forgotten = 0  # versions up to this one are not remembered any more
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.denied: set[tuple[str, str]] = set()  # verb and resource, such as ("get", "pods/log")
        self.logs: dict[str, Log] = {}
        self.broken = 0  # raised to break off all streams
        self.stopped = False  # no request is answered any more, on connections that are open neither
        self.page = 500
        self.terminates_at_once = True
        self.refused_after: tuple[str, int] | None = None  # a name that only a dry run takes, once, and the status
        self.greeting = b'{"gitVersion": "v1.36.0"}'  # what /version answers
        self.namespace = {"metadata": {"name": NAMESPACE, "labels": {}}}
        self._server = Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
        self.break_streams()
        self._server.shutdown()
        self.close()

    def close(self) -> None:
        """Listen no more."""
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def write_kubeconfig(self, path: Path, **user: Any) -> Path:
        """A kube-config of this cluster; `user` replaces the token."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab-context",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": user or {"token": TOKEN}}],
            "contexts": [{"name": "lab-context", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
        }
        path.write_text(yaml.safe_dump(content))
        return path

    # What the tests play

    def put(self, plural: str, thing: dict[str, Any]) -> dict[str, Any]:
        """Keep an object, new or changed."""
        with self.changed:
            key = (plural, thing["metadata"]["name"])
            kind = "MODIFIED" if key in self.objects else "ADDED"
            self.version += 1
            thing["metadata"].setdefault("namespace", NAMESPACE)
            thing["metadata"].setdefault("uid", f"uid-{self.version}")
            thing["metadata"].setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
            thing["metadata"]["resourceVersion"] = str(self.version)
            self.objects[key] = thing
            self.history.append((self.version, plural, kind, copy.deepcopy(thing)))
            self.changed.notify_all()
            return thing

    def remove(self, plural: str, name: str) -> None:
        """Take an object away, and a Job that only waited for its last pod."""
        with self.changed:
            thing = self.objects.pop((plural, name))
            self.version += 1
            thing["metadata"]["resourceVersion"] = str(self.version)
            self.history.append((self.version, plural, "DELETED", copy.deepcopy(thing)))
            self.changed.notify_all()
            if plural == PODS:
                for job in self.all(JOBS):
                    if job["metadata"].get("deletionTimestamp") and not self.pods_of(job):
                        self.remove(JOBS, job["metadata"]["name"])

    def all(self, plural: str) -> list[dict[str, Any]]:
        with self.changed:
            return [thing for (kind, _), thing in self.objects.items() if kind == plural]

    def pods_of(self, job: Mapping[str, Any]) -> list[dict[str, Any]]:
        uid = job["metadata"]["uid"]
        return [
            pod
            for pod in self.all(PODS)
            if any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences", ()))
        ]

    def add_pod(self, job: str, index: int, phase: str = "Running", **status: Any) -> dict[str, Any]:
        """A pod of a Job as the controller makes it; `status` goes into its status."""
        owner = self.objects[JOBS, job]
        name = f"{job}-{index}-{self.version + 1:05x}"
        template = copy.deepcopy(owner["spec"]["template"])
        labels = {**(template.get("metadata", {}).get("labels") or {}), "batch.kubernetes.io/job-name": job}
        labels["batch.kubernetes.io/job-completion-index"] = str(index)
        metadata = {
            "name": name,
            "labels": labels,
            "ownerReferences": [{"kind": "Job", "name": job, "uid": owner["metadata"]["uid"], "controller": True}],
        }
        spec = {**template["spec"], **({"nodeName": f"node-{index}"} if phase != "Pending" else {})}
        thing = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.logs.setdefault(name, Log())
        return self.put(PODS, {**thing, "status": {"phase": phase, **status}})

    def add_event(self, about: Mapping[str, Any], reason: str, message: str, kind: str = "Warning") -> None:
        """Something that the cluster says of an object."""
        involved = {"kind": about["kind"], "name": about["metadata"]["name"], "uid": about["metadata"]["uid"]}
        self.put(
            EVENTS,
            {
                "metadata": {"name": f"event-{self.version + 1}"},
                "involvedObject": involved,
                "reason": reason,
                "message": message,
                "type": kind,
                "count": 3,
                "lastTimestamp": "2026-01-01T00:00:00Z",
            },
        )

    def write(self, pod: str, *texts: str, ended: bool = False) -> None:
        """Add lines to a pod's log."""
        with self.changed:
            log = self.logs[pod]
            for text in texts:
                log.lines.append((f"2026-01-01T00:00:{len(log.lines):02d}.000000000Z", text))
            log.ended = log.ended or ended
            self.changed.notify_all()

    def break_streams(self) -> None:
        """Break off every watch and every log that is followed, in the middle of a line."""
        with self.changed:
            self.broken += 1
            self.changed.notify_all()

    def forget(self) -> None:
        """Watches from before now are gone."""
        with self.changed:
            self.forgotten = self.version

    def asked(self, method: str, path: str) -> list[Request]:
        """Requests whose path ends like that."""
        return [request for request in self.requests if request.method == method and request.path.endswith(path)]

    def wait_for(self, condition: Callable[[], bool], limit: float = 60.0) -> None:
        """Return when something has come to hold of the requests and objects."""
        with self.changed:
            assert self.changed.wait_for(condition, limit), "what was waited for did not come"
