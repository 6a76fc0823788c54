"""A program that starts a pipeline of processes without saying that it is the main program."""

from __future__ import annotations

from datasets_impl.streaming import SequentialQueuedPipeline
from tests.unit.streaming_steps import unchanged

SequentialQueuedPipeline([unchanged], 1, use_processes=True).transform(range(3))
