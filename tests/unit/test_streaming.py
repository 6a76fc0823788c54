"""Streaming pipelines, in threads and in processes: what comes out."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections import Counter
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_impl.streaming import (
    DataContainer,
    ParallelQueuedFeatureUnion,
    SequentialQueuedPipeline,
    StreamingError,
    StripAbsentValues,
)
from tests.unit import streaming_steps as steps

ROOT = Path(__file__).parents[2]

both = pytest.mark.parametrize("use_processes", [False, True], ids=["threads", "processes"])


@pytest.mark.feature("X1", "X3")
@both
def test_minibatches_pass_through_all_steps_in_order(use_processes: bool) -> None:
    chain: list[Any] = [(2, steps.double), (2, steps.uneven), ("last", steps.Multiply(3))]
    pipeline = SequentialQueuedPipeline(chain, batch_size=7, use_processes=use_processes)
    assert pipeline.transform(range(300)) == [6 * item for item in range(300)]


@pytest.mark.feature("X1")
@both
def test_no_more_minibatches_wait_than_the_queues_hold(tmp_path: Path, use_processes: bool) -> None:
    counters = tmp_path / "counters"
    counters.write_bytes(bytes(steps.COUNTERS.size))
    source = iter(range(60))
    chain = [("first", 1, 4, steps.Counted(counters, True)), ("second", 1, 3, steps.Counted(counters, False))]
    pipeline = SequentialQueuedPipeline(chain, batch_size=1, use_processes=use_processes)
    ahead = [60 - length_hint(source) - number for number, _ in enumerate(pipeline.stream(source))]
    begun, _, most = steps.COUNTERS.unpack(counters.read_bytes())
    assert begun == 60
    assert 1 < most <= 1 + 3 + 1  # in the first step, in the queue, in the second
    assert max(ahead) <= 4 + 1 + 3 + 1


@both
def test_a_large_source_is_read_only_as_far_as_there_is_room(use_processes: bool) -> None:
    endless = iter(range(10**12))
    pipeline = SequentialQueuedPipeline([steps.double], 2, max_queued_minibatches=3, use_processes=use_processes)
    results = pipeline.stream(endless)
    assert [batch.data_inputs for batch in islice(results, 2)] == [[0, 2], [4, 6]]
    results.close()
    assert next(endless) <= 2 * (2 + 1 + 3)


@pytest.mark.feature("X2", "X3")
@both
def test_branches_are_joined_in_their_order(use_processes: bool) -> None:
    branches = [("slow", steps.uneven), ("quick", steps.increment)]
    union = ParallelQueuedFeatureUnion(branches, batch_size=4, use_processes=use_processes)
    assert union.transform(range(50)) == [*range(50), *range(1, 51)]


@pytest.mark.feature("X2")
@both
def test_a_joiner_of_ones_own_gets_the_items_of_each_branch(use_processes: bool) -> None:
    def side_by_side(branches: list[list[int]]) -> list[tuple[int, ...]]:
        return list(zip(*branches, strict=True))

    branches = [("a", 2, [{"by": 1}, {"by": 1}], steps.shift), steps.double]
    union = ParallelQueuedFeatureUnion(branches, 3, data_joiner=side_by_side, use_processes=use_processes)
    assert union.transform(range(8)) == [(item + 1, 2 * item) for item in range(8)]
    streamed = list(union.stream(range(4), expected_outputs="abcd"))
    assert streamed[0] == ([0, 1, 2], [(1, 0), (2, 2), (3, 4)], ["a", "b", "c"])
    assert streamed[1] == ([3], [(4, 6)], ["d"])


def test_a_pipeline_is_a_step_too() -> None:
    inner = ParallelQueuedFeatureUnion([steps.double, steps.increment], 2, data_joiner=lambda both: both[0])
    outer = SequentialQueuedPipeline([("inner", 2, inner), steps.increment], batch_size=5)
    assert outer.transform(range(20)) == [2 * item + 1 for item in range(20)]


def _arrays() -> list[Any]:
    large = np.arange(40_000, dtype=np.float32).reshape(200, 200)
    read_only = large.copy()
    read_only.flags.writeable = False
    arrays: list[Any] = [large, np.asfortranarray(large), large[:, ::-2], read_only, np.float64(3), np.arange(3)]
    return [*arrays, large > 7, np.zeros((0, 5)), np.array(["a", "bcd"] * 9000), bytes(100_000), {"deep": [large, "x"]}]


@pytest.mark.feature("X3")
def test_arrays_cross_processes_as_they_are() -> None:
    sent = _arrays()
    pipeline = SequentialQueuedPipeline([("a", 2, steps.unchanged), steps.unchanged], 2, use_processes=True)
    got = pipeline.transform(sent)
    for before, after in zip(sent[:-2], got[:-2], strict=True):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        np.testing.assert_array_equal(after, before)
    assert got[-2] == sent[-2]
    np.testing.assert_array_equal(got[-1]["deep"][0], sent[0])
    assert not got[3].flags.writeable and got[0].flags.writeable and got[1].flags.f_contiguous


@pytest.mark.feature("X3")
def test_memory_that_is_used_again_changes_no_array_that_is_still_held() -> None:
    source = [np.full(20_000, number) for number in range(150)]  # more than a process maps at a time
    pipeline = SequentialQueuedPipeline([steps.in_place, ("b", 2, steps.double)], 1, use_processes=True)
    held = pipeline.transform(source)
    assert all((array == 2 * (number + 1)).all() for number, array in enumerate(held))
    assert all((array == number).all() for number, array in enumerate(source))  # a process has its own copy
    held[0][:] = 7
    assert (held[1] == 4).all()


@pytest.mark.feature("X4")
@both
def test_results_have_the_ids_and_expected_outputs_of_their_items(use_processes: bool) -> None:
    pipeline = SequentialQueuedPipeline([(3, steps.uneven), steps.double], 4, use_processes=use_processes)
    ids, outputs = [f"id {number}" for number in range(30)], [-number for number in range(30)]
    whole = pipeline.transform_data_container(DataContainer(ids, range(30), outputs))
    assert whole == (ids, [2 * item for item in range(30)], outputs)
    numbered = list(pipeline.stream(range(6)))
    assert [batch.ids for batch in numbered] == [[0, 1, 2, 3], [4, 5]]
    assert numbered[0].expected_outputs is None


@pytest.mark.feature("X4")
@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        ({}, ([3, 4], [3, 4], ["d", "e"])),
        ({"keep_incomplete_batch": False}, None),
        ({"default_value_data_inputs": 0}, ([3, 4, None], [3, 4, 0], ["d", "e"])),
        ({"default_value_expected_outputs": "z"}, ([3, 4], [3, 4], ["d", "e", "z"])),
        (
            {"default_value_data_inputs": None, "default_value_expected_outputs": None},
            ([3, 4, None], [3, 4, None], ["d", "e", None]),
        ),
        ({"default_value_data_inputs": StripAbsentValues()}, ([3, 4], [3, 4], ["d", "e"])),
    ],
)
def test_a_short_last_minibatch_is_kept_dropped_or_filled_up(arguments: dict[str, Any], last: Any) -> None:
    pipeline = SequentialQueuedPipeline([steps.unchanged], batch_size=3, **arguments)
    batches = list(pipeline.stream(range(5), expected_outputs="abcde"))
    assert batches[0] == ([0, 1, 2], [0, 1, 2], ["a", "b", "c"])
    assert batches[1:] == ([] if last is None else [last])


@pytest.mark.feature("X4")
def test_what_one_column_lacks_is_filled_in_or_an_error() -> None:
    padded = SequentialQueuedPipeline(
        [steps.double], 2, default_value_data_inputs=7, default_value_expected_outputs="?"
    )
    assert padded.transform_data_container(DataContainer(data_inputs=[1], expected_outputs="abc"))[1:] == (
        [2, 14, 14, 14],
        ["a", "b", "c", "?"],
    )
    assert [batch.expected_outputs for batch in padded.stream([1, 2, 3, 4], "abc")] == [["a", "b"], ["c", "?"]]
    strict = SequentialQueuedPipeline([steps.double], 2)
    with pytest.raises(StreamingError, match="there are 3 expected outputs, fewer than .* a default_value_expected"):
        list(strict.stream([1, 2, 3, 4], "abc"))
    with pytest.raises(StreamingError, match="there are 1 data inputs, fewer"):
        list(strict.stream([1], "abc"))
    with pytest.raises(StreamingError, match="there are 2 ids and more items"):
        list(strict.stream([1, 2, 3], ids="ab"))


@pytest.mark.feature("X4")
@both
def test_steps_that_need_not_be_aligned_may_leave_items_out(use_processes: bool) -> None:
    chain = [(2, steps.without_odd), steps.double]
    cleaning = SequentialQueuedPipeline(chain, 5, aligned=False, use_processes=use_processes)
    assert cleaning.transform(range(20)) == [2 * item for item in range(0, 20, 2)]
    assert next(cleaning.stream(range(20))).ids is None
    with pytest.raises(StreamingError, match="expected outputs need aligned steps"):
        cleaning.stream([1], [1])
    with pytest.raises(StreamingError, match="expected outputs need aligned steps"):
        cleaning.transform_data_container(DataContainer(None, [1], [1]))


@both
def test_nothing_comes_of_nothing(use_processes: bool) -> None:
    pipeline = SequentialQueuedPipeline([steps.double], 3, use_processes=use_processes)
    assert pipeline.transform([]) == []


counts = st.integers(1, 3)
arrangements = st.fixed_dictionaries(
    {
        "length": st.integers(0, 60),
        "batch_size": st.integers(1, 9),
        "workers": st.tuples(counts, counts),
        "queue": st.integers(1, 6),
        "keep": st.booleans(),
        "pads": st.booleans(),
        "kind": st.sampled_from([SequentialQueuedPipeline, ParallelQueuedFeatureUnion]),
    }
)


@pytest.mark.feature("X4")
@settings(max_examples=60, deadline=None)
@given(arrangements)
def test_no_item_is_lost_and_none_comes_twice(arrangement: dict[str, Any]) -> None:
    _check_every_item_comes_once(use_processes=False, **arrangement)


@pytest.mark.slow
@pytest.mark.feature("X3", "X4")
@settings(max_examples=10, deadline=None)
@given(arrangements)
def test_no_item_is_lost_between_processes(arrangement: dict[str, Any]) -> None:
    _check_every_item_comes_once(use_processes=True, **arrangement)


def _check_every_item_comes_once(
    length: int,
    batch_size: int,
    workers: tuple[int, int],
    queue: int,
    keep: bool,
    pads: bool,
    kind: Any,
    use_processes: bool,
) -> None:
    pipeline = kind(
        [("a", workers[0], steps.unchanged), ("b", workers[1], queue, steps.unchanged)],
        batch_size=batch_size,
        max_queued_minibatches=queue,
        keep_incomplete_batch=keep,
        default_value_data_inputs=-1 if pads else StripAbsentValues(),
        data_joiner=lambda branches: branches[-1],
        use_processes=use_processes,
    )
    whole = pipeline.transform_data_container(DataContainer(data_inputs=range(length)))
    kept = length if keep else length - length % batch_size
    filled = -kept % batch_size if pads and keep else 0
    assert whole.data_inputs == [*range(kept), *[-1] * filled]
    assert whole.ids == [*range(kept), *[None] * filled]


@pytest.mark.feature("X6")
@both
def test_a_pipeline_is_used_again_and_twice_at_once(use_processes: bool) -> None:
    pipeline = SequentialQueuedPipeline([steps.double], 2, use_processes=use_processes)
    assert pipeline.transform(range(5)) == pipeline.transform(range(5))
    pairs = list(zip(pipeline.stream(range(6)), pipeline.stream(range(10, 16)), strict=True))
    assert [(one.data_inputs, other.data_inputs) for one, other in pairs][2] == ([8, 10], [28, 30])


@pytest.mark.feature("X6")
@both
def test_each_worker_has_its_own_arguments(use_processes: bool) -> None:
    step = steps.Multiply()
    for chain in (
        [("a", 2, [("factor", 10), ("factor", 100)], step)],
        [("a", 2, [{"by": 10}, {"by": 100}], 5, steps.shift)],
    ):
        pipeline = SequentialQueuedPipeline(chain, 1, use_processes=use_processes)
        got = Counter(pipeline.transform([1] * 40))
        assert got.keys() <= {10, 100, 11, 101} and len(got) <= 2
    assert step.factor == 1  # the caller's object stays as it was


@pytest.mark.feature("X6")
@both
def test_log_records_of_workers_reach_the_callers_logging(
    use_processes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tests.streaming"):
        SequentialQueuedPipeline([steps.log_each], 2, use_processes=use_processes).transform(range(5))
    assert sorted(record.getMessage() for record in caplog.records) == [f"item {number}" for number in range(5)]
    assert {record.name for record in caplog.records} == {"tests.streaming"}


def test_the_examples_of_the_document_run() -> None:
    document = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"^```python\n(.*?)^```$", document, re.MULTILINE | re.DOTALL))
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert f"# {first}, then {second}" in document


@pytest.mark.feature("X1")
def test_steps_that_can_learn_are_fitted_minibatch_by_minibatch() -> None:
    pipeline = SequentialQueuedPipeline([steps.double, ("mean", steps.Mean())], batch_size=2)
    assert pipeline.fit(range(5)) is pipeline
    assert pipeline.transform(range(5)) == [-4.0, -2.0, 0.0, 2.0, 4.0]
    fitted, outputs = SequentialQueuedPipeline([steps.Labels()], 2).fit_transform([3, 1, 2], "cab")
    assert outputs == ["c", "a", "b"]
    assert fitted.transform([1, 2]) == ["a", "b"]
    union = ParallelQueuedFeatureUnion([steps.Mean(), steps.double], batch_size=5).fit(range(5))
    assert union.transform([0]) == [-2.0, 0]
    plain = SequentialQueuedPipeline([steps.double], 2)
    assert plain.fit_transform([1, 2]) == (plain, [2, 4])
