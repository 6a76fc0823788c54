"""Which task another task starts from, and with what of it."""

from __future__ import annotations

import datajoint as dj

from .schema import Connected, schema
from .training_task import TrainingTask  # noqa: F401 - the definition names it


@schema
class WarmStart(Connected, dj.Manual):
    """The source of a task's initial weights. It is part of the task's key; the task waits until its source is trained.

    Rows are made by `TrainingTask.insert_tuples` from the columns ``warm_start`` and ``warm_start_kind``.
    """

    definition = """
    # The task that a task starts from
    -> TrainingTask
    ---
    -> TrainingTask.proj(warm_start_task_md5_hash='training_task_md5_hash')
    """

    class State(Connected, dj.Part):
        """Those that go on from the last state of their source; the others start from its best weights."""

        definition = """
        -> master
        """
