"""What workers read besides their arguments: settings in a ConfigMap, credentials in Secrets that exist already."""

from __future__ import annotations

from typing import Any

from . import labels
from .metadata import metadata
from .values import Values

PLACEHOLDER = "replace-me"


def config_map(values: Values) -> dict[str, Any]:
    """The project's settings as environment variables."""
    data = {f"TRAINLOOM_{name.upper()}": setting_text(value) for name, value in sorted(values.settings.items())}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(values, values.name), "data": data}


def setting_text(value: object) -> str:
    """A setting as an environment variable holds it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def example_secrets(values: Values) -> list[dict[str, Any]]:
    """For each Secret that the workers read, one that shows its keys, under a name that nothing reads."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata(values, f"{secret.name}-example", **{labels.EXAMPLE: "true"}),
            "stringData": dict.fromkeys(sorted(set(secret.env.values())), PLACEHOLDER),
        }
        for secret in values.secrets
    ]
