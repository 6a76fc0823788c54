"""Pods: their containers and volumes as they fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from k8s import labels, names, quantity
from k8s.finding import Problem
from k8s.schema import Node

from .rule import Scene, repeated, rule

SHM = "/dev/shm"
CONTAINER_LISTS = ("containers", "initContainers")
GRACE_DEFAULT = 30  # s, terminationGracePeriodSeconds where it is not given
GRACE_SETTING = "TRAINLOOM_GRACE_SECONDS"


def containers(node: Node) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Paths and contents of a PodSpec's containers, those of the start included."""
    for field in CONTAINER_LISTS:
        for index, container in enumerate(node.value.get(field) or []):
            yield f"{node.at(field)}[{index}]", container


@rule("PodSpec")
def _container_names(node: Node, _: Scene) -> Iterator[Problem]:
    if node.value.get("containers") == []:
        yield Problem(node.at("containers"), "is empty", "a pod needs a container")
    seen = set()
    for path, container in containers(node):
        name = container.get("name")
        if name in seen:
            yield Problem(f"{path}.name", f"is {name!r}, as another container is called", "give each a name of its own")
        if name is not None and not names.is_label(name):
            yield Problem(f"{path}.name", f"{name!r} names no container", "use lower-case letters, digits and hyphens")
        seen.add(name)


@rule("PodSpec")
def _volume_names(node: Node, _: Scene) -> Iterator[Problem]:
    volumes = node.value.get("volumes") or []
    for index, name in repeated(volumes, "name"):
        yield Problem(f"{node.at('volumes')}[{index}].name", f"is {name!r}, as another volume is called", "rename one")
    for index, volume in enumerate(volumes):
        path, sources = f"{node.at('volumes')}[{index}]", sorted(set(volume) - {"name"})
        if not names.is_label(volume.get("name", "x")):
            yield Problem(
                f"{path}.name", f"{volume['name']!r} names no volume", "use lower-case letters, digits, hyphens"
            )
        if len(sources) != 1:
            said = f"has several sources ({', '.join(sources)})" if sources else "has no source"
            yield Problem(path, said, "give one, such as persistentVolumeClaim")
        if volume.get("hostPath", {}).get("path") == "":
            yield Problem(f"{path}.hostPath.path", "is empty", "give a folder of the node")


@rule("PodSpec")
def _mounts(node: Node, _: Scene) -> Iterator[Problem]:
    volumes = [volume.get("name") for volume in node.value.get("volumes") or []]
    for path, container in containers(node):
        mounts = container.get("volumeMounts") or []
        for index, mount in enumerate(mounts):
            if "name" in mount and mount["name"] not in volumes:
                there = f"there are {', '.join(map(str, volumes))}" if volumes else "there are none"
                yield Problem(
                    f"{path}.volumeMounts[{index}].name", f"is {mount['name']!r}, which no volume is called", there
                )
        for index, folder in repeated(mounts, "mountPath"):
            yield Problem(f"{path}.volumeMounts[{index}].mountPath", f"is {folder}, as another's is", "mount each once")


@rule("PodSpec")
def _shared_memory(node: Node, scene: Scene) -> Iterator[Problem]:
    """A folder in memory counts as memory of whoever fills it; without /dev/shm a container has 64 MB of it."""
    memory_volumes = {
        volume.get("name"): (index, volume["emptyDir"])
        for index, volume in enumerate(node.value.get("volumes") or [])
        if volume.get("emptyDir", {}).get("medium") == "Memory"
    }
    for path, container in containers(node):
        limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
        mounted = {mount.get("name"): mount.get("mountPath") for mount in container.get("volumeMounts") or []}
        sizes = {name: folder.get("sizeLimit") for name, (_, folder) in memory_volumes.items() if name in mounted}
        for name, size in sizes.items():
            where = f"{node.at('volumes')}[{memory_volumes[name][0]}].emptyDir.sizeLimit"
            if size is None:
                cure = "give one that is well below the memory limit"
                yield Problem(where, "is missing, and the folder takes memory", cure, "warning")
        total = sum(quantity.amount(size) for size in sizes.values() if size is not None)
        if limit is not None and total and total >= quantity.amount(limit):
            yield Problem(
                f"{path}.resources.limits.memory",
                f"is {limit}, all of which {', '.join(map(str, sizes))} may take, since it lies in memory",
                "raise the limit, or lower the sizeLimit",
            )
        if _is_worker(scene) and not path.startswith(node.at("initContainers")) and SHM not in mounted.values():
            yield Problem(
                f"{path}.volumeMounts",
                f"has no {SHM}, so that loader processes share 64 MB and die of a bus error beyond",
                f"mount an emptyDir of medium Memory at {SHM}",
                "warning",
            )


def _is_worker(scene: Scene) -> bool:
    return ((scene.manifest.get("metadata") or {}).get("labels") or {}).get(labels.COMPONENT) == "worker"


@rule("PodSpec")
def _grace(node: Node, scene: Scene) -> Iterator[Problem]:
    """A worker that needs longer than its pod is killed before it has saved and given back its task."""
    given = node.value.get("terminationGracePeriodSeconds", GRACE_DEFAULT)
    for path, container in containers(node):
        needed = environment(container, scene).get(GRACE_SETTING)
        try:
            seconds = float(needed) if needed is not None else None
        except ValueError:
            seconds = None  # the worker itself refuses it
        if seconds is not None and not 0 < seconds < given:
            said = "has no limit" if seconds == 0 else f"takes up to {needed} s ({GRACE_SETTING})"
            yield Problem(
                node.at("terminationGracePeriodSeconds"),
                f"is {given} s, but the worker in {path.rpartition('.')[2]} {said} to save when it is told to stop",
                "give the pod more time than the worker",
            )


def environment(container: Mapping[str, Any], scene: Scene) -> dict[str, str]:
    """The variables of a container whose values are in the manifests, its own before those of ConfigMaps."""
    found: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        data = scene.config_map((source.get("configMapRef") or {}).get("name", "")) or {}
        found.update({source.get("prefix", "") + key: value for key, value in data.items()})
    for variable in container.get("env") or []:
        if "name" in variable:
            found.pop(variable["name"], None)
            if "value" in variable:
                found[variable["name"]] = variable["value"]
    return found
