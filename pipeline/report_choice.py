"""Which results a report compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datajoint import AndList

from schemas.training_task import TrainingTask

from .errors import PipelineError
from .results import find_results
from .short_keys import full_key, shown
from .task_states import TASK_KEY


class NothingToReport(PipelineError, ValueError):
    """There is no result to compare."""


def chosen_results(
    keys: Sequence[str], filters: Sequence[str], sort: str | None, limit: int, *, descending: bool | None = None
) -> tuple[list[str], int]:
    """Keys of finished tasks in the order asked for, and how many more there were.

    Without `sort` those of `keys` stay in their order, and others come newest first.

    Parameters
    ----------
    keys : as people type them; all results if there are none.
    filters, sort, descending : as in `pipeline.results.find_results`.

    Raises
    ------
    NothingToReport
        If a key's task has no result, or no result is left.
    pipeline.short_keys.UnknownKey, pipeline.results.ResultsError
        As those functions do.
    """
    named = list(dict.fromkeys(full_key(TrainingTask, key) for key in keys))
    conditions: list[Any] = list(filters)
    if named:
        conditions.append([{TASK_KEY: key} for key in named])
    found = [str(row["task"]) for row in find_results(AndList(conditions), sort, ("task",), descending=descending)]
    missing = [key for key in named if key not in found]
    if missing and not filters:
        listed = ", ".join(map(shown, missing))
        raise NothingToReport(f"these tasks have no result yet: {listed}; `trainloom watch KEY` follows a training")
    if not found:
        raise NothingToReport(
            "no result fulfils the conditions" if filters else "there is no result yet; `trainloom worker` trains"
        )
    if named and sort is None:
        found.sort(key=named.index)
    return found[:limit], max(0, len(found) - limit)
