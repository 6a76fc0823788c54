"""Script tasks taken one at a time, waited for, and deleted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from schemas.binding import services
from schemas.script_result import ScriptResult
from schemas.script_task import KEY, ScriptTask

from . import tag_query
from .errors import PipelineError
from .job_table import enqueue, job_table
from .queue import Queue
from .retry import Policy
from .script_runner import check_allowed
from .settings import Settings
from .stop import StopSignal
from .worker import settle_loss

if TYPE_CHECKING:
    from .runner import TaskRunner

COLUMNS = {"name": "script_task_name", "description": "script_task_description", "time": "script_task_time"}
OPTIONS = {
    "order": "original",
    "max_calls": 1,
    "priority": None,
    "refresh": False,
    "make_kwargs": None,
    "suppress_errors": True,
    "return_exception_objects": False,
}


class ScriptTasksFailed(PipelineError):
    """Script tasks that somebody waits for were set aside."""


class WaitedTooLong(PipelineError):
    """Script tasks did not end in time."""


def find(name: str | None, filters: Mapping[str, Any], sort: tag_query.Sort = None) -> list[dict[str, Any]]:
    """Rows of script tasks, without their scripts.

    `filters` and `sort` name ``description``, ``time``, ``priority``, hyperparameters or tags.
    """
    chosen = ScriptTask() & ({"script_task_name": name} if name is not None else True)
    rows = chosen.proj(*COLUMNS.values(), "script_task_tags", "hyper_parameters", "priority").to_dicts(order_by=KEY)
    return [dict(row) for row in tag_query.query(rows, _value, filters, sort)]


def _value(row: Mapping[str, Any], name: str) -> Any:
    if name in COLUMNS:
        return row[COLUMNS[name]]
    if name == "priority":
        return row[name]
    return row["script_task_tags"].get(name, row["hyper_parameters"].get(name))


def run_one(settings: Settings, name: str | None, filters: Mapping[str, Any], sort: tag_query.Sort) -> bool:
    """Take the first task in order that waits, and run it here; whether there was one.

    A task that fails is logged and tried again later, as trainings are. Tasks whose worker died are given back first.

    Raises
    ------
    ScriptsNotAllowed
        If this session runs no scripts; no task is touched then.
    SystemExit, KeyboardInterrupt
        After SIGTERM and SIGINT; the task is given back before.
    """
    check_allowed(settings)
    enqueue(ScriptResult())
    queue = Queue(ScriptResult())
    for lost in queue.reclaim(settings.lease_seconds):
        settle_loss(queue, lost, Policy(settings.max_attempts, settings.retry_seconds))
    due = {row[KEY] for row in (queue.jobs & "status='pending' AND scheduled_time <= CURRENT_TIMESTAMP(3)").to_dicts()}
    stop = StopSignal(settings.grace_seconds)
    runner = cast("TaskRunner", services("TensorHub").runner)
    with stop.listening():
        for row in find(name, filters, sort):
            if row[KEY] not in due:
                continue
            shift = runner.new_shift([(ScriptResult(), ({KEY: row[KEY]},))], OPTIONS, stop)
            shift.run()
            if shift.taken:  # else another worker was faster
                return True
    return False


def unfinished(name: str | None, filters: Mapping[str, Any]) -> list[str]:
    """Keys of the tasks that wait, run, or are tried again later: neither finished nor set aside nor cancelled."""
    keys = [row[KEY] for row in find(name, filters)]
    over = {row[KEY] for row in ScriptResult().proj().to_dicts()}
    over |= {row[KEY] for row in (job_table(ScriptResult()) & "status in ('error', 'ignore')").proj().to_dicts()}
    return [key for key in keys if key not in over]


def errors(name: str | None, filters: Mapping[str, Any]) -> dict[str, str]:
    """Key to error of the tasks that were set aside."""
    set_aside = (job_table(ScriptResult()) & "status='error'").proj("error_message").to_dicts()
    found = {row[KEY]: row["error_message"] for row in set_aside}
    return {row[KEY]: found[row[KEY]] for row in find(name, filters) if row[KEY] in found}


def wait(name: str | None, filters: Mapping[str, Any], timeout_s: float | None, poll_s: float) -> None:
    """Return when no task is unfinished.

    Raises
    ------
    ScriptTasksFailed
        If one was set aside: with its error.
    WaitedTooLong
        If `timeout_s` seconds are over before.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while left := unfinished(name, filters):
        if deadline is not None and time.monotonic() >= deadline:
            raise WaitedTooLong(f"{len(left)} script tasks are unfinished after {timeout_s:g} s; is a worker running?")
        time.sleep(poll_s if deadline is None else max(0.0, min(poll_s, deadline - time.monotonic())))
    if failed := errors(name, filters):
        key, message = next(iter(failed.items()))
        raise ScriptTasksFailed(f"{len(failed)} script tasks were set aside; {key[:8]} since {message}")


def delete(name: str | None, filters: Mapping[str, Any]) -> int:
    """Remove tasks with their results and jobs; how many there were. A script that runs is stopped at the next beat."""
    keys = [{KEY: row[KEY]} for row in find(name, filters)]
    if keys:
        (job_table(ScriptResult()) & keys).delete_quick()
        (ScriptResult() & keys).delete_quick()
        (ScriptTask() & keys).delete_quick()
    return len(keys)
