"""What is wrong with a value, for people: its path, the rule and the cure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from .errors import KubernetesError

WORKER = "worker"
GROUPS = "groups"


class ValuesError(KubernetesError, ValueError):
    """A value is wrong; the message names its path, the rule and the cure."""


_SENTENCES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda _: "is missing; it must be given",
    "int_type": lambda _: "must be a whole number without quotes, such as 8",
    "float_type": lambda _: "must be a number without quotes, such as 0.5",
    "bool_type": lambda _: "must be true or false, without quotes",
    "string_type": lambda _: 'must be text; write it in quotes, such as "8"',
    "tuple_type": lambda _: "must be a list; begin each item with a hyphen, or write [a, b]",
    "mapping_type": lambda _: "must be `name: value` lines",
    "dict_type": lambda _: "must be `name: value` lines",
    "model_type": lambda _: "must be `name: value` lines",
    "literal_error": lambda context: f"must be {context['expected'].replace(chr(39), '')}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']}",
    "less_than_equal": lambda context: f"must be at most {context['le']}",
    "value_error": lambda context: str(context["error"]),
}


def explained(error: ValidationError, root: type[BaseModel]) -> ValuesError:
    """The first thing that is wrong, and how many more there are."""
    found = error.errors(include_url=False)
    first = found[0]
    where = _path(first["loc"])
    if first["type"] == "extra_forbidden":
        said = _unknown(first["loc"], root)
    else:
        sentence = _SENTENCES.get(first["type"])
        said = sentence(first.get("ctx") or {}) if sentence else first["msg"]
    more = len({_shared(item["loc"]) for item in found}) - 1
    return ValuesError(f"{where or 'the values'}: {said}{f' ({more} more wrong)' if more else ''}")


def _shared(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A path in a group as that in `worker`, from where the group may have its value."""
    return (WORKER, *location[2:]) if location[:1] == (GROUPS,) else location


def _path(location: Iterable[int | str]) -> str:
    """``worker.tolerations[0].effect``; without what pydantic adds for the keys of mappings."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{part}" if path else part
    return path


def _unknown(location: tuple[int | str, ...], root: type[BaseModel]) -> str:
    fields = sorted(_section(location[:-1], root).model_fields)
    wanted = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in str(location[-1]))
    close = difflib.get_close_matches(wanted, fields, n=1)
    return f"is no value; did you mean {close[0]}?" if close else f"is no value; there are {', '.join(fields)}"


def _section(location: Iterable[int | str], root: type[BaseModel]) -> type[BaseModel]:
    """The section that a path leads to."""
    section = root
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            inner = _model_in(section.model_fields[part].annotation)
            section = inner or section
    return section


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
