"""Values before they are checked: files, what lies over and under them, and what groups take from `worker`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .value_error import GROUPS, WORKER, ValuesError


def read(path: Path) -> dict[str, Any]:
    """The nested values of a YAML file.

    Raises
    ------
    ValuesError
        If there is no such file, or it holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValuesError(f"the values file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:  # which quotes lines of it
        raise ValuesError(f"the values file {path} is not valid YAML: {_place(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValuesError(f"the values file {path} must hold `name: value` lines, not a {type(content).__name__}")
    return content


def _place(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or "it is no text"
    return f"line {mark.line + 1}, column {mark.column + 1}: {said}" if mark else said


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, mappings within them too; elsewhere what is above counts, lists as a whole."""
    result = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else value
    return result


def assigned(raw: Mapping[str, Any], where: str, value: object) -> dict[str, Any]:
    """The values with one replaced; `where` is a path with dots, of which ``\\.`` is none.

    Raises
    ------
    ValuesError
        If the path leads nowhere, or groups have their own value for what all groups are to get.
    """
    names = [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", where)]
    if not all(names):
        raise ValuesError(f"{where!r} is no path of a value; write one such as worker.gpus")
    groups = raw.get(GROUPS)
    if names[0] == WORKER and len(names) > 1 and isinstance(groups, Mapping):
        hiding = [group for group, given in groups.items() if isinstance(given, Mapping) and names[1] in given]
        if hiding:
            raise ValuesError(
                f"{where} counts nothing for the groups that have their own: {', '.join(map(str, hiding))}; name the "
                f"group, such as {GROUPS}.{hiding[0]}.{'.'.join(names[1:])}"
            )
    result = nested = dict(raw)
    for depth, name in enumerate(names[:-1]):
        if not isinstance(nested.get(name) or {}, Mapping):
            raise ValuesError(f"{where} leads nowhere: {'.'.join(names[: depth + 1])} is no mapping")
        nested[name] = dict(nested.get(name) or {})
        nested = nested[name]
    nested[names[-1]] = value
    return result


def with_groups(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The values with each group put over what all begin with."""
    worker, groups = raw.get(WORKER) or {}, raw.get(GROUPS) or {}
    if not isinstance(worker, Mapping) or not isinstance(groups, Mapping):
        return dict(raw)  # the check says so
    complete = {
        name: merged(worker, group or {}) if isinstance(group or {}, Mapping) else group
        for name, group in groups.items()
    }
    return {**raw, WORKER: worker, GROUPS: complete}
