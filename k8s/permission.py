"""What whoever submits, watches and scales workers must be allowed, asked of the cluster itself."""

from __future__ import annotations

from .access import SUBMITTER_RULES
from .api import Api
from .resource import Resource


def missing(api: Api) -> list[str]:
    """What this user may not do of what submitting, watching and scaling take, such as ``delete jobs``."""
    return [
        f"{verb} {plural}"
        for group, plural, verbs in SUBMITTER_RULES
        for verb in verbs
        if not _may(api, verb, group, plural)
    ]


def _may(api: Api, verb: str, group: str, plural: str) -> bool:
    name, _, part = plural.partition("/")
    return api.may(verb, Resource(name.removesuffix("s"), group=group), part)
