"""Scripts to run: which text, with which hyperparameters, and what is kept of what they compute."""

from __future__ import annotations

import hashlib
import keyword
from collections.abc import Mapping, Sequence
from typing import Any

import datajoint as dj

from .errors import DamagedRow, InvalidRow
from .hashing import md5_of_text, plain, text_of
from .keys import Keys
from .schema import Connected, schema
from .text_column import check_text

DEFAULT_PRIORITY = 5  # DataJoint's; lower runs first
KEY = "script_task_md5_hash"


@schema
class ScriptTask(Connected, dj.Manual):
    """A script to run. Its key is the md5 of the script, its hyperparameters, its name and the keys of the results to
    keep; description, tags, file name and priority are not part of it."""

    definition = """
    # A script to run
    script_task_md5_hash       : char(32)      # md5 of what makes the task; see the class
    ---
    script_task_name           : varchar(255)
    script_task_description    : varchar(2047)
    script_task_tags           : json          # name to value, for people and queries
    script_file_name           : varchar(255)  # as tracebacks name it
    script_sha256              : char(64)      # of the text in UTF-8
    script_text                : json          # text: the script
    hyper_parameters           : json          # name to value
    saved_result_keys          : json          # names that the script leaves behind
    script_task_text           : json          # text: what the key was made of
    priority=5                 : int16         # lower runs first
    script_task_time=CURRENT_TIMESTAMP(3) : datetime(3)  # UTC
    INDEX (script_task_name)
    """

    def insert_task(
        self,
        name: str,
        script: str,
        hyper_parameters: Mapping[str, Any],
        saved_result_keys: Sequence[str],
        *,
        file_name: str = "script.py",
        description: str = "",
        tags: Mapping[str, Any] | None = None,
        priority: int = DEFAULT_PRIORITY,
    ) -> Keys:
        """Insert one task; one that is there already is left as it is.

        Parameters
        ----------
        script : the text of the script.
        hyper_parameters : global names that the script finds, with their values.
        saved_result_keys : global names whose values are kept when it has ended.

        Returns
        -------
        Keys
            The one key; ``.new`` holds it if it was not there before.

        Raises
        ------
        InvalidRow
            If a name or value cannot be used, or the script does not compile.
        """
        _check_columns(name, description, file_name, priority)
        _check_script(script, file_name)
        parameters = _parameters(hyper_parameters)
        kept = _names(saved_result_keys)
        sha256 = hashlib.sha256(script.encode("utf-8")).hexdigest()
        content = {"name": name, "script_sha256": sha256, "hyper_parameters": parameters, "saved_result_keys": kept}
        text = text_of({"table": "script_task", "fields": content})
        key = {KEY: md5_of_text(text)}
        if self & key:
            return Keys([key])
        row = {
            **key,
            "script_task_name": name,
            "script_task_description": description,
            "script_task_tags": plain(dict(tags or {}), "tags"),
            "script_file_name": file_name,
            "script_sha256": sha256,
            "script_text": {"text": script},
            "hyper_parameters": parameters,
            "saved_result_keys": kept,
            "script_task_text": {"text": text},
            "priority": priority,
        }
        self.insert1(row, skip_duplicates=True)
        return Keys([key], [key])

    @staticmethod
    def check(row: Mapping[str, Any]) -> None:
        """Compare a fetched row with its key.

        Raises
        ------
        DamagedRow
            If its text, its parameters or its script are not those that the key was made of.
        """
        text = row["script_task_text"]["text"]
        sha256 = hashlib.sha256(row["script_text"]["text"].encode("utf-8")).hexdigest()
        if md5_of_text(text) != row[KEY] or sha256 != row["script_sha256"] or sha256 not in text:
            raise DamagedRow(f"the script task {row[KEY]} does not agree with its key; delete it and create it again")


def _check_columns(name: Any, description: Any, file_name: Any, priority: Any) -> None:
    for column, text, length in (
        ("task_name", name, 255),
        ("description", description, 2047),
        ("file_name", file_name, 255),
    ):
        check_text(column, text, length)
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 127:
        raise InvalidRow(f"priority must be a whole number from 0 to 127, not {priority!r}")


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = plain(dict(given), "hyper_parameters")
    for name in found:
        _check_global("hyper_parameters", name)
    return found


def _check_script(script: Any, file_name: str) -> None:
    if not isinstance(script, str) or not script.strip():
        raise InvalidRow("the script is empty; give the text of a Python script")
    plain(script, "script")
    try:
        compile(script, file_name, "exec")
    except SyntaxError as error:
        raise InvalidRow(f"the script {file_name} is no valid Python: {error}") from error


def _names(names: Any) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InvalidRow(f"saved_result_keys must be a list of names, not {names!r}")
    for name in names:
        _check_global("saved_result_keys", name)
    return sorted(set(names))


def _check_global(column: str, name: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name.startswith("__"):
        raise InvalidRow(f"{column} names {name!r}, which cannot be a global name of a script; use letters, digits, _")
