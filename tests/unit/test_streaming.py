"""Streaming pipelines, in threads and in processes."""

from __future__ import annotations

from typing import Any

import pytest

from datasets_impl.streaming import ParallelQueuedFeatureUnion, SequentialQueuedPipeline
from tests.unit import streaming_steps as steps

both = pytest.mark.parametrize("use_processes", [False, True], ids=["threads", "processes"])


@pytest.mark.feature("X1")
@both
def test_minibatches_pass_through_all_steps_in_order(use_processes: bool) -> None:
    chain: list[Any] = [steps.double, (2, steps.increment), ("last", steps.Multiply(3))]
    pipeline = SequentialQueuedPipeline(chain, batch_size=7, use_processes=use_processes)
    assert pipeline.transform(range(100)) == [3 * (2 * item + 1) for item in range(100)]


@pytest.mark.feature("X2")
@both
def test_branches_are_joined_in_their_order(use_processes: bool) -> None:
    union = ParallelQueuedFeatureUnion([(2, steps.double), steps.increment], batch_size=7, use_processes=use_processes)
    assert union.transform(range(100)) == [2 * item for item in range(100)] + [item + 1 for item in range(100)]
