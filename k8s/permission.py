"""What whoever submits, watches and scales workers must be allowed, asked of the cluster itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .access import SUBMITTER_RULES
from .api import Api
from .resource import Resource


def missing(api: Api, rules: Sequence[Mapping[str, Any]] = SUBMITTER_RULES) -> list[str]:
    """What this user may not do of what the rules of a Role allow, such as ``delete jobs``."""
    return [
        f"{verb} {plural}"
        for rule in rules
        for group in rule["apiGroups"]
        for plural in rule["resources"]
        for verb in rule["verbs"]
        if not _may(api, verb, group, plural)
    ]


def _may(api: Api, verb: str, group: str, plural: str) -> bool:
    name, _, part = plural.partition("/")
    return api.may(verb, Resource(name.removesuffix("s"), group=group), part)
