"""Changes of one's own to rendered objects, merged as `kubectl patch` does it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import KubernetesError
from .manifest import label

MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "topologySpreadConstraints": "topologyKey",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""Lists whose items are told apart by a field; all other lists are replaced as a whole."""
DIRECTIVE = "$patch"  # in an item or a mapping: `delete` removes it, `replace` puts the patch in its place


class PatchError(KubernetesError, ValueError):
    """A patch cannot be merged; the message names what it was meant for."""


def read(path: Path) -> list[dict[str, Any]]:
    """The patches of a YAML file, separated by ``---``.

    Raises
    ------
    PatchError
        If it cannot be read or holds something else.
    """
    try:
        found = [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item is not None]
    except OSError as error:
        raise PatchError(f"the patch {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError):  # which quotes lines of it
        raise PatchError(f"the patch {path} is not valid YAML") from None
    for item in found:
        if not isinstance(item, dict) or not isinstance(item.get("metadata") or {}, dict) or not item.get("kind"):
            raise PatchError(f"the patch {path} must hold parts of objects, each with its kind, such as kind: Job")
    return found


def patched(objects: Iterable[Mapping[str, Any]], patches: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The objects with each patch merged into those it names by `kind`, and by `metadata.name` where it has one.

    Raises
    ------
    PatchError
        If a patch fits no object, or an item of a list says not which one it is.
    """
    result = [copy.deepcopy(dict(manifest)) for manifest in objects]
    for patch in patches:
        name = (patch.get("metadata") or {}).get("name")
        chosen = [
            index
            for index, manifest in enumerate(result)
            if manifest["kind"] == patch.get("kind") and name in (None, manifest["metadata"]["name"])
        ]
        if not chosen:
            there = ", ".join(dict.fromkeys(map(label, result)))
            raise PatchError(f"the patch of {label(patch)} fits no object; there are {there}")
        for index in chosen:
            result[index] = _mapping(result[index], patch, label(result[index]))
    return result


def _merged(below: Any, patch: Any, field: str, where: str) -> Any:
    if isinstance(patch, Mapping):
        return _mapping(below if isinstance(below, Mapping) else {}, patch, where)
    if isinstance(patch, list) and field in MERGE_KEYS:
        return _items(below if isinstance(below, list) else [], patch, MERGE_KEYS[field], where)
    return copy.deepcopy(patch)


def _mapping(below: Mapping[str, Any], patch: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Both; null in the patch removes."""
    result = {} if patch.get(DIRECTIVE) == "replace" else dict(below)
    for name, value in patch.items():
        if value is None or (isinstance(value, Mapping) and value.get(DIRECTIVE) == "delete"):
            result.pop(name, None)
        elif name != DIRECTIVE:
            result[name] = _merged(result.get(name), value, name, f"{where}: {name}")
    return result


def _items(below: list[Any], patch: list[Any], key: str, where: str) -> list[Any]:
    """Items that are there are merged, new ones follow."""
    items = {item[key]: item for item in below}
    for item in patch:
        if not isinstance(item, Mapping) or key not in item:
            raise PatchError(f"the patch of {where} has an item without {key}, by which items are told apart")
        if item.get(DIRECTIVE) == "delete":
            items.pop(item[key], None)
        else:
            items[item[key]] = _mapping(items.get(item[key], {}), item, where)
    return list(items.values())
