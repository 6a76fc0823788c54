"""Manifests as text: several objects in one YAML stream."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

# What another reader of YAML (kubectl's, YAML 1.1) may take for a number, a boolean or null although PyYAML does not.
_AMBIGUOUS = re.compile(r"[-+.~\d].*|[yYnN]", re.DOTALL)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True  # anchors are hard to read, and a person will edit this


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else '"' if _AMBIGUOUS.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(objects: Iterable[Mapping[str, Any]]) -> str:
    """The objects as one stream that `kubectl apply -f -` takes."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=120, allow_unicode=True)


def label(manifest: Mapping[str, Any]) -> str:
    """What people call an object: ``Job/trainloom``."""
    return f"{manifest.get('kind', '?')}/{(manifest.get('metadata') or {}).get('name', '?')}"
