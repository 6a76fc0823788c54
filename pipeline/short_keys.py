"""Keys as people type them: the first characters, wherever these are unambiguous."""

from __future__ import annotations

import re
from typing import Any

from .errors import PipelineError

SHOWN = 8
"""Characters of a key that lists show."""
LEAST = 4
CANDIDATES = 6
"""How many keys an error about an ambiguous one lists."""
KEY = re.compile(rf"[0-9a-f]{{{LEAST},32}}")

LABELS = {
    "dataset_config_md5_hash": "dataset configuration",
    "model_config_md5_hash": "model configuration",
    "training_config_md5_hash": "training configuration",
    "training_task_md5_hash": "task",
    "script_task_md5_hash": "script task",
    "prediction_task_md5_hash": "prediction task",
    "stored_model_md5_hash": "stored model",
    "stored_dataset_md5_hash": "stored dataset",
}


class UnknownKey(PipelineError, ValueError):
    """No row, or more than one, has a key that begins so."""


class AmbiguousKey(UnknownKey):
    """More than one row has a key that begins so."""


def shown(key: str) -> str:
    """The beginning of a key, as lists show it."""
    return key[:SHOWN]


def full_key(table: Any, typed: str) -> str:
    """The key of the one row of `table` that begins with what was typed.

    Raises
    ------
    UnknownKey
        If there is no such row, or more than one; then the message lists them.
    """
    column = table().primary_key[0]
    label = LABELS[column]
    beginning = typed.strip().lower()
    if not KEY.fullmatch(beginning):
        raise UnknownKey(f"{typed!r} is no key of a {label}; give {LEAST} to 32 of its hexadecimal digits")
    found = [
        row[column]
        for row in (table() & f"{column} BETWEEN '{beginning:0<32}' AND '{beginning:f<32}'").keys(limit=CANDIDATES + 1)
    ]
    if not found:
        raise UnknownKey(f"there is no {label} with a key that begins with {beginning}; {_hint(column)}")
    if len(found) > 1:
        more = " and more" if len(found) > CANDIDATES else ""
        raise AmbiguousKey(
            f"several {label}s have keys that begin with {beginning}: {', '.join(sorted(found)[:CANDIDATES])}{more}; "
            "give more characters"
        )
    return str(found[0])


def _hint(column: str) -> str:
    if column == "training_task_md5_hash":
        return "`trainloom task list` shows the tasks"
    if column == "script_task_md5_hash":
        return "`trainloom task list --table scripts` shows them"
    if column == "prediction_task_md5_hash":
        return "`trainloom task list --table predictions` shows them"
    if column == "stored_dataset_md5_hash":
        return "save it with TensorHub().save_dataset"
    if column == "stored_model_md5_hash":
        return "`trainloom model ls` shows the models"
    return "`trainloom insert` prints the keys of a file's rows again"
