"""Names and labels as Kubernetes takes them (RFC 1123)."""

from __future__ import annotations

import re

LABEL_MAX = 63
SUBDOMAIN_MAX = 253
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_label(text: str) -> bool:
    """Whether `text` may name a container, a volume or a Job: lower-case letters, digits and hyphens, at most 63."""
    return len(text) <= LABEL_MAX and _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """Whether `text` may name most objects: labels with dots between them, at most 253 characters."""
    return len(text) <= SUBDOMAIN_MAX and _SUBDOMAIN.fullmatch(text) is not None


def is_label_value(text: str) -> bool:
    """Whether `text` may be the value of a label: empty, or letters, digits, ``-_.``, at most 63."""
    return len(text) <= LABEL_MAX and _LABEL_VALUE.fullmatch(text) is not None


def is_qualified(text: str) -> bool:
    """Whether `text` may be the key of a label: a name of at most 63 characters, perhaps after ``domain/``."""
    prefix, slash, name = text.rpartition("/")
    return bool(name) and is_label_value(name) and (is_subdomain(prefix) if slash else True)


def is_variable(text: str) -> bool:
    """Whether a shell can read an environment variable of this name."""
    return _VARIABLE.fullmatch(text) is not None
