"""What came out of a script."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import datajoint as dj

from .binding import services
from .queued import Queued
from .schema import schema
from .script_task import KEY, ScriptTask


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


@schema
class ScriptResult(Queued, dj.Computed):
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

    several_processes = "start more workers with `trainloom worker --processes N`"
    participle = "run"

    @property
    def key_source(self) -> Any:
        """The tasks, with the priority that their jobs get."""
        return ScriptTask()

    def make_fetch(self, key: dict[str, Any], **_: Any) -> tuple[dict[str, Any]]:
        """What the task says, without what may change while it runs (DataJoint reads twice and compares)."""
        columns = (KEY, "script_file_name", "script_sha256", "script_text", "script_task_text")
        return ((ScriptTask() & {KEY: key[KEY]}).proj(*columns[1:]).fetch1(),)

    def make_compute(self, key: dict[str, Any], task: dict[str, Any]) -> tuple[ScriptOutcome]:
        """Run the script in a child process; no transaction is open meanwhile."""
        ScriptTask.check(task)
        content = json.loads(task["script_task_text"]["text"])["fields"]
        return (services("ScriptResult").scripts.run({**task, **content}, self.attempt),)

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
