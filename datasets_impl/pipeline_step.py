"""A step of a streaming pipeline: the forms in which it is given, and how a worker calls it."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets_impl.errors import StreamingError

FORMS = (
    "step, (workers, step), (name, step), (name, workers, step), (name, workers, queue, step), "
    "(name, workers, worker_args, step) or (name, workers, worker_args, queue, step)"
)


@dataclass(frozen=True)
class PipelineStep:
    """What is called, by how many workers, behind a queue of which length.

    Attributes:
        name: unique in its pipeline.
        step: a callable of one list of items, or an object with `transform`.
        workers: how many threads or processes call it.
        queue: how many minibatches may wait before it.
        worker_args: for each worker, what to set on its copy of the object, or to give to the callable by keyword.
    """

    name: str
    step: Any
    workers: int
    queue: int
    worker_args: tuple[Mapping[str, Any], ...] = ()

    def runner(self, worker: int, aligned: bool) -> StepRunner:
        """What one worker calls, with its own arguments."""
        step = self.step
        if self.worker_args:
            given = dict(self.worker_args[worker])
            if hasattr(step, "transform"):
                step = copy.copy(step)
                for name, value in given.items():
                    setattr(step, name, value)
            else:
                step = functools.partial(step, **given)
        return StepRunner(self.name, step, aligned)


@dataclass
class StepRunner:
    """One worker's step.

    Attributes:
        name: of the step.
        step: a callable or an object with `transform`.
        aligned: whether it has to return as many items as it got.
    """

    name: str
    step: Any
    aligned: bool
    call: Callable[[Any], Any] = field(init=False)

    def __post_init__(self) -> None:
        self.call = transform_of(self.step)

    def __call__(self, batch: int, items: Any) -> Any:
        """Return what the step makes of a minibatch.

        Raises:
            StreamingError: it has not as many items as asked, or is nothing that has a length.
        """
        return self.checked(batch, items, self.call(items))

    def checked(self, batch: int, items: Any, results: Any) -> Any:
        """Return the results, if they have the length that they must have.

        Raises:
            StreamingError: they have not.
        """
        try:
            count = len(results)
        except TypeError as error:
            raise StreamingError(
                f"step {self.name!r} returned {type(results).__name__} for minibatch {batch}: return a list or an "
                "array of the items."
            ) from error
        if self.aligned and count != len(items):
            raise StreamingError(
                f"step {self.name!r} returned {count} items for the {len(items)} of minibatch {batch}: return one for "
                "each, or build the pipeline with aligned=False."
            )
        return results


def transform_of(step: Any) -> Callable[[Any], Any]:
    """What is called of a step: its `transform`, or the step itself.

    Raises:
        StreamingError: it is neither.
    """
    transform = getattr(step, "transform", None)
    if callable(transform) and not isinstance(step, type):
        return transform
    if callable(step) and not isinstance(step, type):
        return step
    raise StreamingError(f"{step!r} is no step: give a callable or an object with transform.")


def parse_steps(given: Sequence[Any], workers: int, queue: int) -> list[PipelineStep]:
    """Read the steps of a pipeline in any of their forms; `workers` and `queue` hold where a step says nothing.

    A step without a name gets that of its function or class, with a number where several are called so.

    Raises:
        StreamingError: a step has none of the forms, a name stands twice, or there is no step.
    """
    if not given:
        raise StreamingError("the pipeline has no steps: give at least one.")
    steps: list[PipelineStep] = []
    named = {form[0] for form in given if isinstance(form, tuple) and form and isinstance(form[0], str)}
    for place, form in enumerate(given):
        step = _parse(form, place, workers, queue)
        if not step.name:
            step = _named(step, named | {other.name for other in steps})
        if step.name in {other.name for other in steps}:
            raise StreamingError(f"two steps are called {step.name!r}: give each a name of its own.")
        steps.append(step)
    return steps


def _parse(form: Any, place: int, workers: int, queue: int) -> PipelineStep:
    parts = form if isinstance(form, tuple) else (form,)
    wrong = StreamingError(f"step {place} has none of the forms: give {FORMS}.")
    match parts:
        case (step,):
            return _checked("", workers, None, queue, step)
        case (bool(), _) | (_, bool(), *_):
            raise wrong
        case (int(count), step):
            return _checked("", count, None, queue, step)
        case (str(name), step):
            return _checked(name, workers, None, queue, step)
        case (str(name), int(count), step):
            return _checked(name, count, None, queue, step)
        case (str(name), int(count), int(length), step) if not isinstance(length, bool):
            return _checked(name, count, None, length, step)
        case (str(name), int(count), [*arguments], step):
            return _checked(name, count, arguments, queue, step)
        case (str(name), int(count), [*arguments], int(length), step) if not isinstance(length, bool):
            return _checked(name, count, arguments, length, step)
    raise wrong


def _checked(name: str, workers: int, worker_args: list[Any] | None, queue: int, step: Any) -> PipelineStep:
    shown = name or type(step).__name__
    transform_of(step)
    if workers < 1:
        raise StreamingError(f"step {shown!r} has {workers} workers: give it at least 1.")
    if queue < 1:
        raise StreamingError(f"the queue of step {shown!r} holds {queue} minibatches: give it room for at least 1.")
    if worker_args is None:
        return PipelineStep(name, step, workers, queue)
    if len(worker_args) < workers:
        raise StreamingError(
            f"step {shown!r} has {workers} workers and arguments for {len(worker_args)}: give some for each."
        )
    if len(worker_args) > workers:
        warnings.warn(
            f"step {shown!r} has {workers} workers and arguments for {len(worker_args)}: the last ones are not used.",
            stacklevel=6,
        )
    return PipelineStep(name, step, workers, queue, tuple(_arguments(given, shown) for given in worker_args))


def _arguments(given: Any, step: str) -> Mapping[str, Any]:
    """The arguments of one worker: a mapping, or names and values in turn, as in ('host', 'a', 'port', 1)."""
    if isinstance(given, Mapping):
        arguments = dict(given)
    elif isinstance(given, tuple | list) and len(given) % 2 == 0:
        arguments = dict(zip(given[::2], given[1::2], strict=True))
    else:
        arguments = {0: None}
    if not all(isinstance(name, str) for name in arguments):
        raise StreamingError(
            f"{given!r} is no worker's arguments for step {step!r}: give a mapping, or names and values in turn."
        )
    return arguments


def _named(step: PipelineStep, taken: set[str]) -> PipelineStep:
    function = step.step
    while isinstance(function, functools.partial):
        function = function.func
    name = base = getattr(function, "__name__", None) or type(function).__name__
    number = 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return PipelineStep(name, step.step, step.workers, step.queue, step.worker_args)
