"""The forms in which a step of a streaming pipeline is given."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from datasets_impl.pipeline_step import PipelineStep
from datasets_impl.streaming import ParallelQueuedFeatureUnion, SequentialQueuedPipeline, StreamingError
from tests.unit.streaming_steps import Multiply, double

HOSTS = [("host", "a"), ("host", "b", "port", 1)]
GIVEN = ({"host": "a"}, {"host": "b", "port": 1})


@pytest.mark.feature("X1")
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (double, ("double", 3, 7, ())),
        ((double,), ("double", 3, 7, ())),
        ((2, double), ("double", 2, 7, ())),
        (("a", double), ("a", 3, 7, ())),
        (("a", 2, double), ("a", 2, 7, ())),
        (("a", 2, 5, double), ("a", 2, 5, ())),
        (("a", 2, HOSTS, double), ("a", 2, 7, GIVEN)),
        (("a", 2, HOSTS, 5, double), ("a", 2, 5, GIVEN)),
        (("a", 1, [{"host": "a"}], double), ("a", 1, 7, GIVEN[:1])),
        (("a", 1, (("host", "a"),), 5, double), ("a", 1, 5, GIVEN[:1])),
    ],
)
def test_a_step_has_any_of_the_documented_forms(form: Any, expected: tuple[Any, ...]) -> None:
    pipeline = SequentialQueuedPipeline([form], batch_size=1, n_workers_per_step=3, max_queued_minibatches=7)
    name, workers, queue, arguments = expected
    assert pipeline.steps == [PipelineStep(name, double, workers, queue, arguments)]


@pytest.mark.feature("X1")
@pytest.mark.parametrize(
    ("form", "message"),
    [
        (("a", "b", double), "step 0 has none of the forms"),
        ((True, double), "step 0 has none of the forms"),
        (("a", True, double), "step 0 has none of the forms"),
        (("a", 2, True, double), "step 0 has none of the forms"),
        (("a", 2, 1.5, double), "step 0 has none of the forms"),
        (("a", 2, 5, HOSTS, double), "step 0 has none of the forms"),
        ((), "step 0 has none of the forms"),
        (("a", 2), "2 is no step"),
        (Multiply, "is no step: give a callable or an object with transform"),
        ("a", "'a' is no step"),
        ((0, double), "has 0 workers"),
        (("a", 1, 0, double), "the queue of step 'a' holds 0 minibatches"),
        (("a", 3, HOSTS, double), "step 'a' has 3 workers and arguments for 2"),
        (("a", 1, ["host"], double), "'host' is no worker's arguments for step 'a'"),
        (("a", 1, [("host",)], double), "is no worker's arguments"),
        (("a", 1, [(1, 2)], double), "is no worker's arguments"),
    ],
)
def test_other_forms_are_refused(form: Any, message: str) -> None:
    with pytest.raises(StreamingError, match=message):
        SequentialQueuedPipeline([form], batch_size=1)


def test_arguments_for_more_workers_than_there_are_are_said_to_be_ignored() -> None:
    with pytest.warns(UserWarning, match="step 'a' has 1 workers and arguments for 2"):
        SequentialQueuedPipeline([("a", 1, HOSTS, 10, double)], batch_size=10)


def test_steps_without_a_name_get_one_of_their_own() -> None:
    steps = [double, ("double_2", double), double, Multiply(2), Multiply(3)]
    union = ParallelQueuedFeatureUnion(steps, batch_size=1)
    assert [step.name for step in union.steps] == ["double", "double_2", "double_3", "Multiply", "Multiply_2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": []}, "the pipeline has no steps"),
        ({"steps": [("a", double), ("a", double)]}, "two steps are called 'a'"),
        ({"batch_size": 0}, "batch_size is 0: give a positive integer"),
        ({"batch_size": True}, "batch_size is True"),
        ({"n_workers_per_step": 0}, "n_workers_per_step is 0"),
        ({"max_queued_minibatches": -1}, "max_queued_minibatches is -1"),
        ({"data_joiner": 3}, "3 is no step"),
    ],
)
def test_arguments_of_a_pipeline_are_checked_where_it_is_built(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(StreamingError, match=message):
        SequentialQueuedPipeline(**{"steps": [double], "batch_size": 1, **arguments})


@pytest.mark.feature("X3")
def test_a_step_that_cannot_be_pickled_is_refused_for_processes_where_the_pipeline_is_built() -> None:
    steps: list[Any] = [double, ("local", lambda items: items)]
    assert SequentialQueuedPipeline(steps, batch_size=2).transform([1, 2]) == [2, 4]
    with pytest.raises(
        StreamingError, match=r"step 'local' cannot be pickled .*at the top of a module, or use threads"
    ):
        SequentialQueuedPipeline(steps, batch_size=2, use_processes=True)


@pytest.mark.feature("X3")
def test_a_step_that_other_processes_would_not_find_is_refused_too() -> None:
    program = (
        "from datasets_impl.streaming import SequentialQueuedPipeline\n"
        "def step(items): return items\n"
        "SequentialQueuedPipeline([step], 1, use_processes=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "step 'step' is defined in a notebook or on the command line" in done.stderr.splitlines()[-1]
