"""Types of values, each with its rule, its message and its cure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator

from . import names, quantity

T = TypeVar("T")

_COMMIT = re.compile(r"[0-9a-f]{40}")


def _amount(text: str) -> str:
    if quantity.amount(text) <= 0:
        raise ValueError(f"{text!r} is nothing; give more than 0")
    return text


def _number_as_text(value: object) -> object:
    """Numbers are quantities too, and YAML reads them as numbers."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _object_name(text: str) -> str:
    if not names.is_subdomain(text):
        raise ValueError(f"{text!r} names no object; use lower-case letters, digits, hyphens and dots")
    return text


def _short_name(text: str) -> str:
    if not names.is_label(text):
        raise ValueError(f"{text!r} is no name; use at most 63 lower-case letters, digits and hyphens")
    return text


def _label_value(text: str) -> str:
    if not names.is_label_value(text):
        raise ValueError(f"{text!r} is no value of a label; use at most 63 letters, digits, '-', '_' and '.'")
    return text


def _label_key(text: str) -> str:
    if not names.is_qualified(text):
        raise ValueError(f"{text!r} is no key of a label; write a name, perhaps after a domain and a slash")
    return text


def _variable(text: str) -> str:
    if not names.is_variable(text):
        raise ValueError(f"{text!r} is no variable; use letters, digits and underscores")
    return text


def _folder(text: str) -> str:
    if not text.startswith("/") or ".." in text.split("/") or ":" in text:
        raise ValueError(f"{text!r} is no absolute path without '..' and ':'; write one such as /data")
    return text.rstrip("/") or "/"


def _inside(text: str) -> str:
    if text.startswith("/") or ".." in text.split("/"):
        raise ValueError(f"{text!r} must lie within; write a path such as lab/data")
    return text.strip("/")


def _commit(text: str) -> str:
    if not _COMMIT.fullmatch(text):
        raise ValueError(
            f"{text!r} pins no commit; give all 40 hexadecimal digits, as `git rev-parse HEAD` prints them"
        )
    return text


def _setting(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if not isinstance(value, str | int | float | bool):
        raise ValueError(f"{value!r} is no value of a setting; give text, a number, true or false, or a list of text")
    return value


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Quantity = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_amount)]
"""``500m``, ``16G``, ``11Gi``; more than nothing."""
ObjectName = Annotated[str, AfterValidator(_object_name)]
ShortName = Annotated[str, AfterValidator(_short_name)]
LabelKey = Annotated[str, AfterValidator(_label_key)]
LabelValue = Annotated[str, AfterValidator(_label_value)]
Variable = Annotated[str, AfterValidator(_variable)]
Folder = Annotated[str, AfterValidator(_folder)]
"""An absolute path."""
Inside = Annotated[str, AfterValidator(_inside)]
"""A relative path that leads nowhere else."""
Commit = Annotated[str, AfterValidator(_commit)]
Items = Annotated[tuple[T, ...], BeforeValidator(_as_tuple)]
Texts = Annotated[Mapping[Variable, str], AfterValidator(MappingProxyType)]
Labels = Annotated[Mapping[LabelKey, LabelValue], AfterValidator(MappingProxyType)]
Annotations = Annotated[Mapping[LabelKey, str], AfterValidator(MappingProxyType)]
Named = Annotated[Mapping[ShortName, T], AfterValidator(MappingProxyType)]
Settings = Annotated[Mapping[str, Annotated[Any, AfterValidator(_setting)]], AfterValidator(MappingProxyType)]
"""Settings of the worker by name."""
