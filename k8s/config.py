"""What workers read besides their arguments: settings in a ConfigMap, credentials in Secrets that exist already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import code, labels
from .metadata import metadata
from .values import Values

PREFIX = "TRAINLOOM_"
PLACEHOLDER = "replace-me"
SCRATCH = "/scratch"
FOLDERS = {
    "dataset_dir": f"{SCRATCH}/datasets",
    "dataset_cache_dir": f"{SCRATCH}/cache",
    "model_save_dir": f"{SCRATCH}/models",
}
"""Where workers keep files, unless settings name other folders: a pod has no home."""


def config_map(values: Values) -> dict[str, Any]:
    """The settings of all workers as environment variables."""
    settings = {**FOLDERS, **values.settings, **code.settings(values)}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(values, values.name),
        "data": variables(dict(sorted(settings.items()))),
    }


def variables(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as environment variables, which hold text."""
    return {f"{PREFIX}{name.upper()}": _text(value) for name, value in settings.items()}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def example_secrets(values: Values) -> list[dict[str, Any]]:
    """For each Secret that the workers read, one that shows its keys, under a name that nothing reads."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata(values, f"{name}-example", {labels.EXAMPLE: "true"}),
            "type": "Opaque",
            "stringData": dict.fromkeys(sorted(keys), PLACEHOLDER),
        }
        for name, keys in _keys(values).items()
    ]


def _keys(values: Values) -> dict[str, set[str]]:
    """The keys that are read, by Secret."""
    found: dict[str, set[str]] = {}
    for secret in values.credentials():
        found.setdefault(secret.name, set()).update(secret.env.values())
    if values.code.secret is not None:
        found.setdefault(values.code.secret, set()).update((values.code.username_key, values.code.password_key))
    return found
