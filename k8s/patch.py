"""Changes of one's own to rendered objects, merged as `kubectl patch` does it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import KubernetesError
from .manifest import label

KEYS = {"containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath"}


class PatchError(KubernetesError, ValueError):
    """A patch cannot be merged; the message names what it was meant for."""


def patched(objects: Iterable[Mapping[str, Any]], patches: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The objects with each patch merged into those it names by `kind`, and by `metadata.name` where it has one.

    Raises
    ------
    PatchError
        If a patch names no object that is there.
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
            raise PatchError(f"the patch for {label(patch)} fits no object; there are {', '.join(map(label, result))}")
        for index in chosen:
            result[index] = merged(result[index], patch)
    return result


def merged(below: Any, patch: Any, key: str = "") -> Any:
    """`below` with a patch: mappings are merged, null removes, named items merge by name, other lists are replaced."""
    if isinstance(below, Mapping) and isinstance(patch, Mapping):
        kept = {name: value for name, value in below.items() if patch.get(name, value) is not None}
        return {
            **kept,
            **{name: merged(kept.get(name), value, name) for name, value in patch.items() if value is not None},
        }
    by = KEYS.get(key)
    if by and isinstance(below, list) and isinstance(patch, list):
        items = {item[by]: item for item in below}
        for item in patch:
            items[item[by]] = merged(items.get(item[by]), item)
        return list(items.values())
    return copy.deepcopy(patch)
