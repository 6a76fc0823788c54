"""An Indexed Job as Kubernetes runs it, with processes of this machine for pods.

The objects are those that `k8s.render` makes; images are not looked at: a container's command is found in this
environment. Where the machine allows it (root), a pod has process ids and a host name of its own, so that its command
is process 1, which no signal ends by default. Volumes are folders of the pod, to which the paths in its environment
are moved.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

NAMESPACES = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
NAMED = ["sh", "-c", 'hostname "$1" && shift && exec "$@"', "sh"]
PAUSE = 0.05  # s between looks
# Of the machine's environment a container has nothing but what finds the commands.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def namespaces_allowed() -> bool:
    """Whether pods can have process ids of their own here."""
    try:
        return subprocess.run([*NAMESPACES, *NAMED, "name", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@dataclass
class Pod:
    """One try at an index.

    Attributes
    ----------
    disrupted : whether the cluster wanted it away: the condition `DisruptionTarget`.
    code : the exit code of its container, None while it runs; as a shell tells it.
    """

    name: str
    index: int
    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    isolated: bool
    disrupted: bool = False
    code: int | None = None
    killed_at: float | None = None

    @property
    def said(self) -> str:
        return (self.folder / "log").read_text()

    def terminate(self, grace: float) -> None:
        """What kubelet does: SIGTERM now, SIGKILL when the grace is over."""
        if self.killed_at is None:
            self.killed_at = time.monotonic() + grace
            self._send(signal.SIGTERM)

    def look(self) -> None:
        """See whether it has ended, and end it when its time is over."""
        if self.killed_at is not None and time.monotonic() > self.killed_at:
            self._send(signal.SIGKILL)
        code = self.process.poll()
        if code is not None:
            self.code = 128 - code if code < 0 else code

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as a probe does."""
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False
        )

    def _send(self, number: signal.Signals) -> None:
        try:
            main = psutil.Process(self.process.pid)
            if self.isolated:
                (main,) = main.children()
            main.send_signal(number)
        except (psutil.NoSuchProcess, ValueError):  # it has just ended
            pass


@dataclass
class JobSimulator:
    """The controller of one Job and the kubelet of its pods.

    Attributes
    ----------
    pods : all that there were.
    outcome : ``Complete`` or ``Failed``, with the reason; empty while it runs.
    spoiled : by index, variables that only its pods get: what is wrong on their node.
    """

    job: Mapping[str, Any]
    config_maps: Mapping[str, Mapping[str, str]]
    secrets: Mapping[str, Mapping[str, str]]
    folder: Path
    pods: list[Pod] = field(default_factory=list)
    outcome: str = ""
    spoiled: dict[int, dict[str, str]] = field(default_factory=dict)
    _succeeded: set[int] = field(default_factory=set)
    _failed: set[int] = field(default_factory=set)
    _failures: Counter[int] = field(default_factory=Counter)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _isolated: bool = field(default_factory=namespaces_allowed)

    @classmethod
    def of(cls, objects: list[dict[str, Any]], secrets: Mapping[str, Mapping[str, str]], folder: Path) -> JobSimulator:
        """That of the only Job among rendered objects."""
        (job,) = (item for item in objects if item["kind"] == "Job")
        maps = {item["metadata"]["name"]: item["data"] for item in objects if item["kind"] == "ConfigMap"}
        assert job["spec"]["completionMode"] == "Indexed"
        assert job["spec"]["podReplacementPolicy"] == "Failed"
        return cls(job, maps, secrets, folder)

    @property
    def running(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.code is None]

    def run(self, meanwhile: Callable[[JobSimulator], None] = lambda _: None, limit: float = 300.0) -> str:
        """Return the outcome; `meanwhile` is called at each look, and no pod is left at the end."""
        deadline = time.monotonic() + limit
        try:
            while not (self.outcome and not self.running):
                assert time.monotonic() < deadline, [pod.said for pod in self.running]
                self._look()
                meanwhile(self)
                time.sleep(PAUSE)
        finally:
            for pod in self.running:
                pod.process.kill()  # and with it all of its namespace
                pod.process.wait()
        return self.outcome

    def evict(self, pod: Pod) -> None:
        """What a drain of its node does."""
        pod.disrupted = True
        pod.terminate(self._spec["terminationGracePeriodSeconds"])

    @property
    def probe(self) -> list[str]:
        """The command of the liveness probe; nothing runs it here but who asks."""
        command: list[str] = self._spec["containers"][0]["livenessProbe"]["exec"]["command"]
        return command

    @property
    def _spec(self) -> Mapping[str, Any]:
        spec: Mapping[str, Any] = self.job["spec"]["template"]["spec"]
        return spec

    def _look(self) -> None:
        for pod in self.running:
            pod.look()
            if pod.code is not None:
                self._settle(pod)
        spec = self.job["spec"]
        if not self.outcome and len(self._failed) > spec["maxFailedIndexes"]:
            self._fail("MaxFailedIndexesExceeded")
        if not self.outcome and len(self._succeeded | self._failed) == spec["completions"]:
            self.outcome = "Failed: FailedIndexes" if self._failed else "Complete"
        if not self.outcome:
            self._start_missing()

    def _start_missing(self) -> None:
        """A pod for each index that has neither ended nor a pod that still runs, or is being ended."""
        busy = {pod.index for pod in self.running}
        for index in range(self.job["spec"]["completions"]):
            if index not in busy | self._succeeded | self._failed and len(busy) < self.job["spec"]["parallelism"]:
                self.pods.append(self._start(index))
                busy.add(index)

    def _settle(self, pod: Pod) -> None:
        """Count a pod that has ended, by the first rule of the failure policy that matches."""
        if pod.code == 0:
            self._succeeded.add(pod.index)
            return
        for rule in self.job["spec"]["podFailurePolicy"]["rules"]:
            if not _matches(rule, pod):
                continue
            if rule["action"] == "FailJob":
                self._fail("PodFailurePolicy")
            elif rule["action"] == "FailIndex":
                self._failed.add(pod.index)
            if rule["action"] != "Count":
                return
            break
        self._failures[pod.index] += 1
        if self._failures[pod.index] > self.job["spec"]["backoffLimitPerIndex"]:
            self._failed.add(pod.index)

    def _fail(self, reason: str) -> None:
        self.outcome = f"Failed: {reason}"
        for pod in self.running:
            pod.terminate(self._spec["terminationGracePeriodSeconds"])

    def _start(self, index: int) -> Pod:
        name = f"{self.job['metadata']['name']}-{index}-{next(self._numbers):05d}"
        folder = self.folder / name
        for volume in self._spec["volumes"]:
            (folder / volume["name"]).mkdir(parents=True)
        (container,) = self._spec["containers"]
        command = [*container["command"], *container.get("args", ())]
        environment = self._environment(container, name, index, folder) | self.spoiled.get(index, {})
        namespaces = [*NAMESPACES, *NAMED, name] if self._isolated else []
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*namespaces, *command],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Pod(name, index, folder, environment, process, self._isolated)

    def _environment(self, container: Mapping[str, Any], name: str, index: int, folder: Path) -> dict[str, str]:
        """`envFrom` and `env` resolved, and paths on volumes moved to the pod's folder."""
        fields = {"metadata.name": name, "metadata.namespace": "simulated", "spec.nodeName": f"node-{index % 2}"}
        found = {"PATH": PATH, "JOB_COMPLETION_INDEX": str(index)}
        for source in container.get("envFrom", ()):
            found |= self.config_maps[source["configMapRef"]["name"]]
        for variable in container["env"]:
            source = variable.get("valueFrom", {})
            if "fieldRef" in source:
                found[variable["name"]] = fields[source["fieldRef"]["fieldPath"]]
            elif "secretKeyRef" in source:
                found[variable["name"]] = self.secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
            else:
                found[variable["name"]] = variable["value"]
        mounts = {mount["mountPath"]: folder / mount["name"] for mount in container["volumeMounts"]}
        moved = {variable: _moved(value, mounts) for variable, value in found.items()}
        return {**moved, "PATH": found["PATH"]}  # of this machine, whatever is mounted over it


def _moved(value: str, mounts: Mapping[str, Path]) -> str:
    for mount, folder in mounts.items():
        if value == mount or value.startswith(f"{mount}/"):
            return f"{folder}{value.removeprefix(mount)}"
    return value


def _matches(rule: Mapping[str, Any], pod: Pod) -> bool:
    if "onExitCodes" in rule:
        assert rule["onExitCodes"]["operator"] == "In"
        return pod.code in rule["onExitCodes"]["values"]
    return pod.disrupted and {"type": "DisruptionTarget", "status": "True"} in rule["onPodConditions"]
