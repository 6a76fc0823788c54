"""Which task's best weights another task starts from."""

from __future__ import annotations

import datajoint as dj

from .schema import Connected, schema
from .training_task import TrainingTask  # noqa: F401 - the definition names it


@schema
class WarmStart(Connected, dj.Manual):
    """The source of a task's initial weights. It is part of the task's key; the task waits until its source is trained.

    Rows are made by `TrainingTask.insert_tuples` from the column ``warm_start``.
    """

    definition = """
    # The task whose best weights a task starts from
    -> TrainingTask
    ---
    -> TrainingTask.proj(warm_start_task_md5_hash='training_task_md5_hash')
    """
