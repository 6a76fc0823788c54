"""Streaming pipelines: steps that work at the same time, each in threads or processes of its own.

The words and forms are those of Neuraxle's `neuraxle.distributed.streaming`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any, Self

from datasets_impl.data_container import DataContainer as DataContainer
from datasets_impl.data_container import StripAbsentValues as StripAbsentValues
from datasets_impl.data_container import minibatches
from datasets_impl.errors import StepError as StepError
from datasets_impl.errors import StreamingError as StreamingError
from datasets_impl.errors import WorkerLostError as WorkerLostError
from datasets_impl.pipeline_step import PipelineStep, parse_steps, transform_of
from datasets_impl.step_fitting import fit_transform, is_fittable
from datasets_impl.step_processes import ProcessCrew, pickled_steps
from datasets_impl.step_threads import ThreadCrew
from datasets_impl.worker_crew import WorkerCrew

QUEUED_MINIBATCHES = 10  # before each step, where nothing else is said


class BaseQueuedPipeline:
    """Minibatches on their way through steps that work at the same time.

    A step is a callable of a list of items that returns as many, or an object whose `transform` does. It is given as
    `step`, `(workers, step)`, `(name, step)`, `(name, workers, step)`, `(name, workers, queue, step)`,
    `(name, workers, worker_args, step)` or `(name, workers, worker_args, queue, step)`. `queue` is how many minibatches
    may wait before it. `worker_args` holds for each worker a mapping, or names and values in turn, which are set on its
    copy of the object, or given to the callable by keyword.

    Threads share the step that they call, so it has to bear that; each process has its own. Processes are spawned:
    steps have to be picklable, and a script starts pipelines under `if __name__ == "__main__":`.

    A pipeline can be used any number of times, one after another or at once: each use starts workers of its own, which
    end with it.

    Args:
        steps: in any of these forms.
        batch_size: items of a minibatch.
        n_workers_per_step: workers of a step that names no number, by default 1.
        max_queued_minibatches: length of the queue before a step that names none, by default 10.
        data_joiner: joins what the branches made: a callable of a list with the items of each branch, or an object with
            such a `transform`. By default the items of one branch follow those of the one before.
        use_processes: processes instead of threads.
        keep_incomplete_batch: whether a short last minibatch is processed.
        default_value_data_inputs: fills up a short last minibatch, and stands for inputs that are missing beside
            expected outputs. By default (`StripAbsentValues()`) nothing is filled in.
        default_value_expected_outputs: likewise for expected outputs.
        aligned: whether a step has to return as many items as it gets. Where it need not, results carry neither ids nor
            expected outputs.

    Raises:
        StreamingError: an argument is not of this form, or a step for processes cannot be pickled.
    """

    def __init__(
        self,
        steps: Sequence[Any],
        batch_size: int,
        n_workers_per_step: int | None = None,
        max_queued_minibatches: int | None = None,
        data_joiner: Any = None,
        use_processes: bool = False,
        keep_incomplete_batch: bool = True,
        default_value_data_inputs: Any = StripAbsentValues(),  # noqa: B008 - it has no state
        default_value_expected_outputs: Any = StripAbsentValues(),  # noqa: B008
        aligned: bool = True,
    ) -> None:
        self.batch_size = _positive("batch_size", batch_size)
        workers = _positive("n_workers_per_step", 1 if n_workers_per_step is None else n_workers_per_step)
        queued = QUEUED_MINIBATCHES if max_queued_minibatches is None else max_queued_minibatches
        self.steps = parse_steps(steps, workers, _positive("max_queued_minibatches", queued))
        self.use_processes = use_processes
        self.keep_incomplete_batch = keep_incomplete_batch
        self.default_value_data_inputs = default_value_data_inputs
        self.default_value_expected_outputs = default_value_expected_outputs
        self.aligned = aligned
        self._join: Callable[[list[Any]], Any] = _concatenated if data_joiner is None else transform_of(data_joiner)
        if use_processes:
            pickled_steps(self.steps, aligned)

    def stream(
        self,
        data_inputs: Iterable[Any],
        expected_outputs: Iterable[Any] | None = None,
        ids: Iterable[Any] | None = None,
    ) -> Generator[DataContainer, None, None]:
        """Yield each minibatch as it comes out of the last step, in the order of the input.

        The input is read in the caller's thread, between results, and only as far as the queues have room: no more
        minibatches are held than fit into all queues and workers, whatever the length of the input. Workers start with
        the first result that is asked for, and end with the generator: when it is exhausted, closed, or dropped.

        Args:
            data_inputs: the items.
            expected_outputs: for each item; they stay beside it.
            ids: of the items, by default their numbers.

        Raises:
            StreamingError: a step returns another number of items, columns differ in length, or (`WorkerLostError`) a
                worker process is killed.
            Exception: what a step raised, with a `StepError` as its cause.
        """
        return self._joined(self._run(self._cut(DataContainer(ids, data_inputs, expected_outputs))))

    def transform(self, data_inputs: Iterable[Any]) -> Any:
        """Return what the pipeline makes of all items, joined once at the end, in the order of the input."""
        return self.transform_data_container(DataContainer(data_inputs=data_inputs)).data_inputs

    def transform_data_container(self, data_container: DataContainer) -> DataContainer:
        """Like `transform`, with ids and expected outputs, which are those of one branch."""
        data = data_container
        columns = DataContainer([], [[] for _ in self._branches()], None if data.expected_outputs is None else [])
        with closing(self._run(self._cut(data))) as results:
            for batch, branches in results:
                columns.ids.extend(batch.ids)
                if batch.expected_outputs is not None:
                    columns.expected_outputs.extend(batch.expected_outputs)
                for column, items in zip(columns.data_inputs, branches, strict=True):
                    column.extend(items)
        ids = columns.ids if self.aligned else None
        return DataContainer(ids, self._join(columns.data_inputs), columns.expected_outputs)

    def fit(self, data_inputs: Iterable[Any], expected_outputs: Iterable[Any] | None = None) -> Self:
        """Let the steps learn that can: in the caller's thread, minibatch by minibatch, each from what the step before
        it makes of the data. What a step learns from one minibatch has to add to what it learned from those before.

        Raises:
            Exception: what a step raised, with a `StepError` as its cause.
        """
        for _ in self._fitting(DataContainer(None, data_inputs, expected_outputs)):
            pass
        return self

    def fit_transform(
        self, data_inputs: Iterable[Any], expected_outputs: Iterable[Any] | None = None
    ) -> tuple[Self, Any]:
        """Like `fit`, and return the pipeline with what the steps made of each minibatch as they learned from it; where
        no step can learn, this is `transform`."""
        if not any(is_fittable(step) for step in self.steps):
            return self, self.transform(data_inputs)
        columns: list[list[Any]] = [[] for _ in self._branches()]
        for branches in self._fitting(DataContainer(None, data_inputs, expected_outputs)):
            for column, items in zip(columns, branches, strict=True):
                column.extend(items)
        return self, self._join(columns)

    def _fitting(self, data: DataContainer) -> Iterator[list[Any]]:
        """Let the steps learn from each minibatch, and yield what its branches made of it."""
        for number, batch in enumerate(self._cut(data)):
            results = []
            fitted = []
            for steps in self._branches():
                following = batch
                for step in steps:
                    step, items = fit_transform(step, number, following, self.aligned)
                    following = following._replace(data_inputs=items)
                    fitted.append(step)
                results.append(following.data_inputs)
            self.steps = fitted
            yield results

    def _cut(self, data: DataContainer) -> Iterator[DataContainer]:
        if not self.aligned and data.expected_outputs is not None:
            raise StreamingError("expected outputs need aligned steps: leave them out, or build with aligned=True.")
        return minibatches(
            data,
            self.batch_size,
            self.keep_incomplete_batch,
            self.default_value_data_inputs,
            self.default_value_expected_outputs,
        )

    def _branches(self) -> list[list[PipelineStep]]:
        raise NotImplementedError

    def _joined(
        self, results: Generator[tuple[DataContainer, list[Any]], None, None]
    ) -> Generator[DataContainer, None, None]:
        with closing(results):
            for batch, branches in results:
                ids = batch.ids if self.aligned else None
                yield DataContainer(ids, self._join(branches), batch.expected_outputs)

    def _run(self, batches: Iterator[DataContainer]) -> Generator[tuple[DataContainer, list[Any]], None, None]:
        """Yield each minibatch with the results of its branches, in order."""
        branches = self._branches()
        # Everything that the queues and workers can hold; more would only wait for its turn to be yielded.
        limit = max(sum(step.queue + step.workers for step in steps) for steps in branches)
        crew: WorkerCrew = (ProcessCrew if self.use_processes else ThreadCrew)(branches, self.aligned)
        finished = False
        try:
            yield from _in_order(batches, crew, len(branches), limit)
            finished = True
        finally:
            crew.close(finished)


def _in_order(
    batches: Iterator[DataContainer], crew: WorkerCrew, branches: int, limit: int
) -> Generator[tuple[DataContainer, list[Any]], None, None]:
    """Feed the workers, and put what comes back in order."""
    sent: dict[int, DataContainer] = {}
    results: dict[int, dict[int, Any]] = {}
    first = 0  # the number of the minibatch that is yielded next
    number = 0  # of the one that is read next
    more = True
    while more or sent:
        if first in results and len(results[first]) == branches:
            done = results.pop(first)
            batch = sent.pop(first)
            first += 1
            yield batch, [done[branch] for branch in range(branches)]
            del done, batch
            continue
        wants = more and number - first < limit
        feeds = wants and crew.has_room()
        if feeds:
            following = next(batches, None)
            if following is None:
                more = False
                continue
            crew.put(number, following.data_inputs)
            sent[number] = following._replace(data_inputs=None)
            number += 1
            del following
        result = crew.get(block=not feeds, or_room=wants)
        if result is not None:
            results.setdefault(result.batch, {})[result.branch] = result.items
            del result


class SequentialQueuedPipeline(BaseQueuedPipeline):
    """Steps in a row: each works on one minibatch while the one before is at the next already."""

    def _branches(self) -> list[list[PipelineStep]]:
        return [self.steps]


class ParallelQueuedFeatureUnion(BaseQueuedPipeline):
    """Steps side by side: each gets every minibatch, and what they make of it is joined in the order of the steps."""

    def _branches(self) -> list[list[PipelineStep]]:
        return [[step] for step in self.steps]


def _concatenated(branches: list[Any]) -> list[Any]:
    return branches[0] if len(branches) == 1 else list(chain.from_iterable(branches))


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise StreamingError(f"{name} is {value!r}: give a positive integer.")
    return value
