"""What came out of a script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import datajoint as dj

from .binding import services
from .errors import InvalidRow, NotConnected
from .schema import Connected, schema
from .script_task import KEY, ScriptTask

ORDERS = ("original", "random")


@dataclass(frozen=True)
class ScriptOutcome:
    """What a script left behind.

    Attributes
    ----------
    results : name to plain value, None for NaN and infinity.
    notes : what a reader should know: values that could not be kept as they were.
    output : the end of what it wrote to standard output and standard error.
    duration : s.
    """

    results: dict[str, Any]
    notes: list[str]
    output: str
    duration: float


class ScriptRunner(Protocol):
    """Runs scripts."""

    def run(self, task: Mapping[str, Any], attempt: Any) -> ScriptOutcome:
        """Run the script of a row of `ScriptTask`; `attempt` may say meanwhile that it is to stop."""


_runner: ScriptRunner | None = None


def bind(runner: ScriptRunner | None) -> None:
    """Lend what runs scripts, or take it back with None."""
    global _runner
    _runner = runner


@schema
class ScriptResult(Connected, dj.Computed):
    """The results of a script task. `populate` runs what has none yet."""

    definition = """
    # The results of a script
    -> ScriptTask
    ---
    script_results         : json         # name to value; null where it was not finite
    script_notes           : json         # what a reader should know
    script_output          : json         # text: the end of what it wrote
    script_duration        : float64      # s
    script_result_time=CURRENT_TIMESTAMP(3) : datetime(3)  # UTC
    """

    attempt: Any = None  # what a script may know of the attempt it is part of; set by the worker meanwhile

    @property
    def key_source(self) -> Any:
        """The tasks, with the priority that their jobs get."""
        return ScriptTask()

    def populate(
        self,
        *restrictions: Any,
        suppress_errors: bool = False,
        return_exception_objects: bool = False,
        reserve_jobs: bool = False,
        max_calls: int | None = None,
        display_progress: bool = False,
        processes: int = 1,
        make_kwargs: dict[str, Any] | None = None,
        priority: int | None = None,
        refresh: bool | None = None,
        order: str = "original",
    ) -> dict[str, Any]:
        """Run every task that has no result yet; parameters and return value are those of
        `TrainingResult.populate`."""
        if order not in ORDERS:
            raise InvalidRow(f"order is 'original' or 'random', not {order!r}")
        if processes != 1:
            raise InvalidRow("populate runs scripts one after the other; start it in several processes")
        options = {
            "suppress_errors": suppress_errors,
            "return_exception_objects": return_exception_objects,
            "reserve_jobs": reserve_jobs,
            "max_calls": max_calls,
            "display_progress": display_progress,
            "make_kwargs": make_kwargs,
            "priority": priority,
            "refresh": refresh,
        }
        return services("ScriptResult").runner.populate(self, restrictions, order, options)

    def make_fetch(self, key: dict[str, Any], **_: Any) -> tuple[dict[str, Any]]:
        """What the task says, without what may change while it runs (DataJoint reads twice and compares)."""
        columns = (KEY, "script_file_name", "script_sha256", "script_text", "script_task_text")
        return ((ScriptTask() & {KEY: key[KEY]}).proj(*columns[1:]).fetch1(),)

    def make_compute(self, key: dict[str, Any], task: dict[str, Any]) -> tuple[ScriptOutcome]:
        """Run the script in a child process; no transaction is open meanwhile."""
        if _runner is None:
            raise NotConnected("ScriptResult")
        ScriptTask.check(task)
        content = json.loads(task["script_task_text"]["text"])["fields"]
        return (_runner.run({**task, **content}, self.attempt),)

    def make_insert(self, key: dict[str, Any], outcome: ScriptOutcome) -> None:
        """Publish the results."""
        self.insert1(
            {
                **key,
                "script_results": outcome.results,
                "script_notes": outcome.notes,
                "script_output": {"text": outcome.output},
                "script_duration": outcome.duration,
            }
        )
