"""Training a model by gradient descent, epoch by epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from trainers import batch as batches
from trainers import metrics as metric_registry
from trainers import numerics, process_group
from trainers.best_weights import BestWeights
from trainers.checkpoint_policy import CheckpointPolicy
from trainers.contract import Checkpoints, Progress, Reporter, Stop, Stopped, TrainerError
from trainers.early_stopping import EarlyStopping
from trainers.epoch_losses import EpochLosses
from trainers.epochs import Epochs
from trainers.group_watch import GroupWatch
from trainers.histories import LOSS, Histories
from trainers.learner import Learner
from trainers.loader_position import tell_epoch
from trainers.parameter_history import ParameterHistory
from trainers.resources import ResourcePolicy, needs_of
from trainers.scoring import Scoring, TierScore
from trainers.share import split_loaders
from trainers.trainer_options import TrainerOptions, takes_options
from trainers.training_state import TrainingState
from trainers.watch import Watch


class NNTrainer:
    """Trains for `max_epoch` epochs, keeps the weights that did best on the validation tier, and scores them on the
    test tier.

    A loader yields pairs (inputs, targets): tensors, or lists, tuples or dicts of them, examples along the first
    dimension. The model is called with the inputs as they come and returns (output, regularization_loss) or one output.
    With several targets it returns its outputs in the same list or dict; the criterion is applied to each and the
    losses are summed.

    Recorded losses are means over examples: the criterion's value for a batch (its own mean), weighted by the batch's
    size. Regularization is part of what is minimised and has a history of its own.

    Randomness: torch's global generators are seeded with `seed` just before the model is built, and again at the start
    of every epoch from (seed, epoch). The order of the data is the loader's business; `set_epoch(epoch)` is called
    where it has one. Epochs count from 0.

    Checkpoints: a training that finds a state in `checkpoints` goes on from there and ends with the same bits as one
    that was never interrupted, if `trainers.numerics.pin` was given the checkpoint's numerics before. Batches of an
    epoch that lie behind are left out by ``train_dataloader.resume(epoch, batches)`` where it has that, else read and
    dropped.

    Several devices: with the option `devices` every process that `torchrun` or the pipeline has started is given the
    same arguments and trains on its share of every batch, which the loaders' ``split_between(rank, ranks)`` gives it.
    Losses, metrics and decisions are those of whole batches and tiers, the same in all of them; only the first one
    writes, reports, and asks `stop`.

    Args:
        train_dataloader, validation_dataloader, test_dataloader: iterables of batches; untouched until needed.
        device: a torch device or its name.
        model_class, model_class_params: the model; the parameters include `input_shape` and `output_shape`.
        optimizer_class, optimizer_class_params: the optimizer; see `trainers.optimizer.build` for what is chosen.
        criterion_class, criterion_class_params: the criterion, called with (output, target), giving a scalar.
        model_save_path: the safetensors file of the best weights, written at the end of `train`.
        max_epoch: number of epochs, at least 1.
        seed: of all random draws made here; at least 0.
        initial_weights: a safetensors file of weights to start from instead of the model's own initial ones.
        initial_state: the file of the last state of another training that this one goes on from, for more epochs; its
            configuration may differ in `max_epoch`, in what says when to save, and in `continuation_params`.
        reporter: is told of each epoch.
        checkpoints: keeps the state; see the parameters of `trainers.checkpoint_policy`.
        stop: is asked after every batch whether to end early.
        progress: is called after every batch.
        scheduler_class: the class that `scheduler_class_name` of another module than torch's stands for.
        options: every field of `TrainerOptions`.

    Attributes:
        training_epoch_loss_history, validation_epoch_loss_history, regularization_loss_history: one float per epoch;
            see `Histories` for epochs that have no validation, or several.
        validation_metric_history: a list like these for each metric.
        validation_points: the loss and each metric by validation; `validated_steps` holds after how many batches.
        model_class_params_history_dict: ``{parameter: {"mean": [...], "variance": [...]}}``, one entry per epoch.
        epochs_done: how many epochs lie behind.
        best_epoch: the epoch, counted from 0, whose weights are kept; None before the first.
        test_score: the value of `selection` on the test tier; None before the end of `train`.
        test_metrics: the loss and every metric on the test tier.
        metric_directions: for the loss and every metric, whether "max" or "min" is best.
        parameter_count: number of the model's parameters, trainable or not.
        choices: what was chosen here where the row left it open.

    Raises:
        TrainerError: a parameter is wrong; the message names it.
    """

    validate_params: ClassVar[type] = TrainerOptions
    """Called with the trainer's own parameters, checks them without building anything; raises `TrainerError`."""
    trains_on_devices: ClassVar[bool] = True
    """Whether the parameter `devices` says how many processes train together."""
    continuation_params: ClassVar[frozenset[str]] = frozenset(field.name for field in fields(EarlyStopping))
    """Parameters that may be others where a training goes on from the last state of another."""
    run_params: ClassVar[frozenset[str]] = frozenset(
        field.name for policy in (CheckpointPolicy, ResourcePolicy) for field in fields(policy)
    )
    test_score: float | None
    test_metrics: dict[str, float]
    _watch: Watch | None  # while training

    @classmethod
    def needs(cls, params: Mapping[str, Any]) -> dict[str, int]:
        """What a training with these parameters needs of a worker: ``devices``, ``gpu_memory`` and ``memory``."""
        return needs_of(params, on_devices=cls.trains_on_devices)

    @takes_options
    def __init__(
        self,
        *,
        train_dataloader: Any,
        validation_dataloader: Any,
        test_dataloader: Any,
        device: torch.device | str,
        model_class: type[nn.Module],
        model_class_params: Mapping[str, Any],
        optimizer_class: type[torch.optim.Optimizer],
        optimizer_class_params: Mapping[str, Any],
        criterion_class: Any,
        criterion_class_params: Mapping[str, Any],
        model_save_path: str | os.PathLike[str],
        max_epoch: int,
        seed: int = 0,
        initial_weights: str | os.PathLike[str] | None = None,
        initial_state: str | os.PathLike[str] | None = None,
        reporter: Reporter | None = None,
        checkpoints: Checkpoints | None = None,
        stop: Stop | None = None,
        progress: Progress | None = None,
        scheduler_class: type | None = None,
        **options: Any,
    ) -> None:
        self._options = TrainerOptions(**options)
        _require_integer(max_epoch, "max_epoch", at_least=1)
        _require_integer(seed, "seed", at_least=0)
        self._options.check_reached(max_epoch)
        self.train_dataloader = train_dataloader
        self.validation_dataloader = validation_dataloader
        self.test_dataloader = test_dataloader
        self._group = process_group.join(self._options.devices, device)
        self.device = _device(device)
        self.model_save_path = str(model_save_path)
        self.max_epoch = max_epoch
        self.seed = seed
        leads = self._group.leads
        self.reporter = reporter if leads else None
        self.checkpoints = checkpoints if leads else None
        self.stop = stop if leads else None
        self.progress = progress if leads else None
        self.metrics = tuple(self._options.metrics)
        self.selection = self._options.selection

        self._learner = Learner(
            self._options,
            self.device,
            seed,
            self._group,
            model_class=model_class,
            model_class_params=model_class_params,
            optimizer_class=optimizer_class,
            optimizer_class_params=optimizer_class_params,
            criterion_class=criterion_class,
            criterion_class_params=criterion_class_params,
            scheduler_class=scheduler_class,
        )
        split_loaders((train_dataloader, validation_dataloader, test_dataloader), self._group)
        self._begin()
        self._resumed = self._state.resume(self.checkpoints)
        if not self._resumed:
            if initial_state is not None:
                self._state.go_on_from(initial_state, max_epoch)
            elif initial_weights is not None:
                self._learner.start_from(initial_weights)

    @property
    def epochs_done(self) -> int:
        return self._state.epochs_done

    @property
    def best_epoch(self) -> int | None:
        return self._state.best_epoch

    def train(self) -> None:
        """Train the epochs not yet done, then load the best weights, write them to `model_save_path` and score them.

        Raises:
            TrainerError: a loss is infinite or not a number, or a loader yields nothing.
            Stopped: a stop was asked for; the state is saved if there are `checkpoints`.
        """
        if self._group.size != self._options.devices:
            raise TrainerError(
                f"devices is {self._options.devices}, but this process was not started as one of so many; start them "
                f"with torchrun --nproc-per-node {self._options.devices}, or train through the pipeline."
            )
        if self.reporter is not None:
            self.reporter.started(self.epochs_done, self.max_epoch)
        self._watch = self._new_watch()
        epochs = self._new_epochs()
        try:
            with self._options.numerics(self.device):
                epochs.train()
                self._finish(epochs)
        except Stopped:
            self._state.interrupt()
            raise
        except BaseException:
            self._state.losses = EpochLosses()  # the epoch would be trained anew
            raise
        finally:
            self._watch = None

    def validate(self) -> dict[str, float]:
        """The loss and every metric of the model as it is on the validation tier; while a training averages weights, of
        the average."""
        return self._score(self.validation_dataloader, "validation").values()

    def evaluate(self, return_outputs_targets_and_loss: bool = False) -> float | dict[str, Any]:
        """Run the model as it is over the test tier.

        Returns:
            The loss; or a dict of `outputs` and `targets`, NumPy arrays of all examples in the loader's order (in the
            batches' structure where there are several), `loss`, and `by_unit`: for metrics that are means over units,
            such as the correlation, the value of each unit (see `MetricSet.by_unit`).
        """
        if not return_outputs_targets_and_loss:
            return self._score(self.test_dataloader, "test").values()[LOSS]
        if self._group.size > 1:
            raise TrainerError("Outputs and targets are given in a process that scores alone; each rank has its share.")
        kept: list[tuple[Any, Any]] = []
        score = self._score(self.test_dataloader, "test", kept)
        outputs, targets = (batches.concatenate(part) for part in zip(*kept, strict=True))
        return {"outputs": outputs, "targets": targets, LOSS: score.values()[LOSS], "by_unit": score.by_unit()}

    def load_best_performing_model(self) -> None:
        """Put the best weights into the model: those kept in memory, else those of `model_save_path`.

        Raises:
            TrainerError: there are none, or they belong to another model.
        """
        self._best.load_into(self.model, self.device)

    def _begin(self) -> None:
        """No epoch is done and nothing is recorded."""
        learner = self._learner
        self.model, self.criterion, self.optimizer = learner.model, learner.criterion, learner.optimizer
        self.choices = learner.choices
        self.parameter_count = sum(parameter.numel() for parameter in self.model.parameters())
        self._scoring = Scoring(learner.objective, self.metrics, self.device, self._group)
        self.metric_directions: dict[str, Literal["max", "min"]] = {
            LOSS: "min",
            **{name: metric_registry.find(name).direction for name in self.metrics},
        }
        parameters = ParameterHistory(self.model) if self._options.parameter_history else None
        self._histories = Histories(self.metric_directions, self.selection, parameters)
        self.training_epoch_loss_history = self._histories.training
        self.validation_epoch_loss_history = self._histories.validation
        self.regularization_loss_history = self._histories.regularization
        self.validation_metric_history = self._histories.metrics
        self.validation_points = self._histories.points
        self.validated_steps = self._histories.steps
        self.model_class_params_history_dict = parameters.values if parameters else {}
        self._best = BestWeights(self.model_save_path)
        self._state = TrainingState(
            model=self.model,
            optimizer=self.optimizer,
            criterion=self.criterion,
            update=learner.update,
            averaging=learner.averaging,
            best=self._best,
            histories=self._histories,
            choices=self.choices,
            device=self.device,
            group=self._group,
        )
        self._watch = None
        self.test_score = None
        self.test_metrics = {}

    def _new_watch(self) -> Watch | None:
        together = self._group.size > 1
        if not together and self.checkpoints is None and self.stop is None and self.progress is None:
            return None
        retention = self._options.retention(self.metric_directions[self.selection])
        schedule = self._options.checkpoint_schedule(resumed=self._resumed)
        settings = numerics.record()  # without those of the options, which a resumed training has again
        watched = (self.checkpoints, self.stop, self.progress, schedule, retention, lambda: self._state.pack(settings))
        return GroupWatch(self._group, *watched) if together else Watch(*watched)

    def _new_epochs(self) -> Epochs:
        return Epochs(
            self._options,
            learner=self._learner,
            state=self._state,
            histories=self._histories,
            best=self._best,
            group=self._group,
            device=self.device,
            seed=self.seed,
            max_epoch=self.max_epoch,
            train_dataloader=self.train_dataloader,
            validation_dataloader=self.validation_dataloader,
            directions=self.metric_directions,
            validate=self.validate,
            reporter=self.reporter,
            watch=self._watch,
        )

    def _finish(self, epochs: Epochs) -> None:
        """Write the best weights and score them."""
        epochs.scoring_begins()
        self.load_best_performing_model()
        if self._learner.averaging.mixes_statistics(self.best_epoch):
            self._recompute_statistics()
        tell_epoch(self.test_dataloader, 0)
        if self._group.leads:
            self._best.save(self.model)
        self.test_metrics = self._score(self.test_dataloader, "test").values()
        self.test_score = self.test_metrics[self.selection]

    def _recompute_statistics(self) -> None:
        """Give the batch normalisation of averaged weights statistics of its own, from the training tier."""
        tell_epoch(self.train_dataloader, self.epochs_done, resumed=self._state.resumed is not None)
        self._learner.recompute_statistics(self.train_dataloader, self._scored_batch)
        self._learner.averaging.settle()
        self._best.keep(self.model)

    def _scored_batch(self) -> None:
        """A batch was read for another purpose than to learn from it."""
        if self._watch is not None:
            self._watch.after_batch(self.epochs_done, len(self._state.losses))

    def _score(self, loader: Any, tier: str, kept: list[tuple[Any, Any]] | None = None) -> TierScore:
        """Loss and metrics of the called model on a tier; outputs and targets go into `kept` where it is given."""
        after_batch = None if self._watch is None else self._scored_batch
        with self._options.numerics(self.device):
            keep = None if kept is None else lambda outputs, targets: kept.append((outputs, targets))
            return self._scoring.score(loader, tier, after_batch, keep)


def _device(name: torch.device | str) -> torch.device:
    """The device with its number, so that it equals the device of the tensors that lie there."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise TrainerError(f'device is {name!r}; it must be one of torch\'s, such as "cpu" or "cuda:0".') from error
    return torch.empty(0, device=device).device


def _require_integer(value: Any, name: str, *, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise TrainerError(f"{name} is {value!r}; it must be an integer of at least {at_least}.")
