"""Which finished results were trained with other code than the modules hold now."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.binding import services
from schemas.errors import InvalidRow
from schemas.training_result import TrainingResult

from . import provenance


def changed_results() -> dict[str, list[str]]:
    """Class (``module.Class``) to the keys of the finished tasks that were trained with another text of its module.

    Classes that cannot be found any more have no text to compare; those of torch go by its version, which is among the
    recorded packages.
    """
    known: dict[str, bool | None] = {}
    if not any(changed_classes(code, known) for code in _distinct_code()):
        return {}  # the usual case has not read a row per result
    changed: dict[str, list[str]] = {}
    for row in TrainingResult.Provenance().proj("code").to_dicts(order_by="training_task_md5_hash"):
        for label in changed_classes(row["code"], known):
            changed.setdefault(label, []).append(row["training_task_md5_hash"])
    return changed


def warn_if_changed(logger: logging.Logger) -> None:
    """Log a warning for every class whose code has changed since it was trained."""
    for label, tasks in sorted(changed_results().items()):
        results = "1 finished result was" if len(tasks) == 1 else f"{len(tasks)} finished results were"
        logger.warning(
            "the code of %s has changed since %s trained with it, which counts as done; "
            "`trainloom task retrain KEY` trains a task again (%s)",
            label,
            results,
            ", ".join(task[:8] for task in tasks[:3]) + (", …" if len(tasks) > 3 else ""),
        )


def changed_classes(code: Mapping[str, Mapping[str, str]], known: dict[str, bool | None] | None = None) -> list[str]:
    """The classes of a `Provenance.code` whose module has another text now; `known` saves repetition."""
    known = {} if known is None else known
    changed = []
    for role, recorded in code.items():
        label = f"{recorded['module']}.{recorded['class']}"
        identity = f"{label} {recorded['sha256']}"
        if identity not in known:
            known[identity] = has_changed(role, recorded)
        if known[identity] and label not in changed:
            changed.append(label)
    return changed


def has_changed(role: str, recorded: Mapping[str, str]) -> bool | None:
    """Whether a class's module has another text than was recorded; None if the class cannot be found any more.

    Parameters
    ----------
    role : its role in the training, such as ``model`` or ``train_sampler``.
    recorded : its ``class``, ``module`` and ``sha256``.
    """
    module = recorded["module"]
    if module.partition(".")[0] == "torch":
        return False
    try:
        services("code_changes").resolver.resolve(module, recorded["class"], role.rpartition("_")[2])
    except InvalidRow:
        return None
    return provenance.module_text(module)[0] != recorded["sha256"]


def _distinct_code() -> Iterator[dict[str, Any]]:
    """Every different value of `Provenance.code`; DataJoint does not group by json."""
    table = TrainingResult.Provenance()
    column = table.connection.adapter.quote_identifier("code")
    for (code,) in table.connection.query(f"SELECT DISTINCT {column} FROM {table.full_table_name}").fetchall():
        yield json.loads(code) if isinstance(code, str) else code
