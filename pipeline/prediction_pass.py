"""One pass of a model over examples, its outputs streamed into a file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from trainers.contract import TrainerError
from trainers.histories import LOSS
from trainers.nn_trainer import NNTrainer
from trainers.prediction import Predictor
from trainers.trainer_options import TrainerOptions

from .model_loading import label_of
from .prediction_data import Examples
from .prediction_file import PredictionWriter, UnsuitableOutputs
from .result_rows import finite, metric_rows
from .training_spec import Component, TrainingSpec

Progress = Callable[[int, int], None]
"""Is told how many examples are done, and of how many."""


@dataclass(frozen=True)
class Passed:
    """What a pass found.

    Attributes
    ----------
    count : of the examples.
    shape : of the output for one example, as rows hold shapes.
    values : name to value of the loss and the metrics; empty without targets.
    directions : name to "max" or "min", whichever is better.
    """

    count: int
    shape: Any
    values: dict[str, float]
    directions: dict[str, str]

    @property
    def score(self) -> float | None:
        """The loss; None without targets, or if it is not finite."""
        return finite(self.values.get(LOSS, math.nan))

    def metrics(self) -> list[dict[str, Any]]:
        """A row for each value, as `schemas.prediction.Prediction.Metric` has it without its key."""
        return metric_rows(self.values, self.directions)


def predictor(model: torch.nn.Module, device: torch.device, training: TrainingSpec | None) -> Predictor:
    """What applies a model as its training did; without one in float32, and without a criterion."""
    if training is None:
        return Predictor(model, device, TrainerOptions())
    criterion = training.criterion.cls(**training.criterion.params)
    return Predictor(model, device, _options(training.trainer), criterion)


def _options(trainer: Component) -> TrainerOptions:
    """Those of our trainer; trainers of one's own have names of their own."""
    if not issubclass(trainer.cls, NNTrainer):
        return TrainerOptions()
    names = {field.name for field in fields(TrainerOptions)}
    return TrainerOptions(**{name: value for name, value in trainer.params.items() if name in names})


def predict(predicts: Predictor, examples: Examples, file: BinaryIO, after_batch: Progress) -> Passed:
    """Predict all examples; `file` holds them then.

    Raises
    ------
    UnsuitableOutputs
        If the outputs are not one for each example.
    trainers.contract.TrainerError
        If outputs and targets do not belong together.
    """
    count = examples.count
    with PredictionWriter(file, count) as writer:

        def told() -> None:
            after_batch(writer.done, count)

        values: dict[str, float] = {}
        if examples.has_targets:
            values = predicts.score(examples.loader, writer.append, told)
        else:
            predicts.predict(examples.loader, writer.append, told)
        writer.finish()
    file.seek(0)
    return Passed(count, writer.shape, values, dict(predicts.directions))


@contextmanager
def said_if_unsuitable(model: torch.nn.Module, shape: Any, name: str) -> Iterator[None]:
    """During a pass over arrays that somebody brought: what torch raises about them becomes a sentence.

    Raises
    ------
    UnsuitableOutputs
        If the model cannot be applied to them.
    """
    try:
        yield
    except (TrainerError, UnsuitableOutputs):
        raise
    except torch.OutOfMemoryError as error:
        raise UnsuitableOutputs(
            f"{label_of(type(model))} cannot be applied to {name}: the device has not enough memory for a batch "
            f"({str(error).splitlines()[0]}); give a smaller --batch-size (batch_size=)"
        ) from error
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:  # code of users
        raise UnsuitableOutputs(
            f"{label_of(type(model))} cannot be applied to {name}, with examples of shape {shape}: "
            f"{type(error).__name__}: {' '.join(str(error).split())}; give arrays of the dtype that it was trained with"
        ) from error


def nameless_file(folder: Path) -> BinaryIO:
    """A file in a folder that is gone as soon as it is closed, also by a kill."""
    folder.mkdir(parents=True, exist_ok=True)
    return cast(BinaryIO, tempfile.TemporaryFile(dir=folder))
