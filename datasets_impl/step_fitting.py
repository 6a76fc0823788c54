"""How a step of a streaming pipeline learns from data: in the caller's process, one minibatch after another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datasets_impl.data_container import DataContainer
from datasets_impl.pipeline_step import PipelineStep
from datasets_impl.worker_crew import Failure


def is_fittable(step: PipelineStep) -> bool:
    """Whether a step can learn: it has `partial_fit`, `fit_transform` or `fit`."""
    return any(callable(getattr(step.step, name, None)) for name in ("partial_fit", "fit_transform", "fit"))


def fit_transform(step: PipelineStep, batch: int, data: DataContainer, aligned: bool) -> tuple[PipelineStep, Any]:
    """Let a step learn from a minibatch; return it and what it then makes of the items.

    Of its methods the first it has is called with items and expected outputs: `partial_fit`, `fit_transform` or `fit`.
    Where such a method returns an object with `transform` (for `fit_transform`: a pair of that and the results), this
    replaces the step.

    Raises:
        Exception: what the step raised, with a `StepError` as its cause.
    """
    try:
        return _fit_transform(step, batch, data, aligned)
    except Exception as error:
        Failure.of(error, step.name, 0, batch).throw()


def _fit_transform(step: PipelineStep, batch: int, data: DataContainer, aligned: bool) -> tuple[PipelineStep, Any]:
    learner = step.step
    if not hasattr(learner, "partial_fit") and hasattr(learner, "fit_transform"):
        results = learner.fit_transform(data.data_inputs, data.expected_outputs)
        if isinstance(results, tuple) and len(results) == 2 and hasattr(results[0], "transform"):
            fitted, results = results
            step = replace(step, step=fitted)
        return step, step.runner(0, aligned).checked(batch, data.data_inputs, results)
    if is_fittable(step):
        fit = learner.partial_fit if hasattr(learner, "partial_fit") else learner.fit
        fitted = fit(data.data_inputs, data.expected_outputs)
        if hasattr(fitted, "transform"):
            step = replace(step, step=fitted)
    return step, step.runner(0, aligned)(batch, data.data_inputs)
