"""Training a model by gradient descent, epoch by epoch."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from models_impl.contract import output_and_regularization
from trainers import batch as batches
from trainers import learned_state, numerics, randomness
from trainers import metrics as metric_registry
from trainers import optimizer as optimizers
from trainers.best_weights import BestWeights
from trainers.checkpoint import Header, pack, unpack
from trainers.checkpoint_policy import CheckpointPolicy
from trainers.contract import Checkpoints, Progress, Reporter, Stop, Stopped, TrainerError
from trainers.epoch_losses import EpochLosses
from trainers.histories import LOSS, Histories
from trainers.learning_rate import LearningRate
from trainers.parameter_history import ParameterHistory
from trainers.precision import Precision
from trainers.trainer_options import TrainerOptions
from trainers.update import Update
from trainers.watch import Watch


class NNTrainer:
    """Trains for `max_epoch` epochs, keeps the weights of the epoch that did best on the validation tier, and scores
    them on the test tier.

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
        reporter: is told of each epoch.
        checkpoints: keeps the state; see the parameters of `trainers.checkpoint_policy`.
        stop: is asked after every batch whether to end early.
        progress: is called after every batch.
        metrics: names from `trainers.metrics.METRICS`, computed on the validation tier each epoch and on the test tier.
        selection: what chooses the best epoch and is the test score: "loss" or one of `metrics`.
        parameter_history: record mean and variance of every parameter after each epoch.
        precision: "fp32", "bf16" or "fp16": the automatic mixed precision of torch; weights stay float32.
        gradient_accumulation: batches for each step of the optimizer.
        gradient_clip_norm, gradient_clip_value: limits of the norm of all gradients together, and of each number.
        scheduler_class_name, scheduler_class_params: a learning-rate scheduler of `torch.optim.lr_scheduler`.
        scheduler_steps: whether it goes on after every "epoch" or after every step, "batch". `ReduceLROnPlateau` is
            given the validation's value of `selection`.
        warmup_steps: the first so many steps are taken with a rate that grows linearly to the schedule's.
        early_stopping_patience: end when so many epochs brought nothing better; 0 for never.
        training_strip_length: epochs in a strip, for the next two.
        successive_validation_score_decline_tolerance: end when the validation score, looked at at the end of each
            strip, has declined so many times in a row; 0 for never.
        early_stopping_quotient: end when generalization loss by training progress is more; see `EarlyStopping`.
        checkpoint_epochs: save after every so many epochs; 0 for never; None for as often as costs next to nothing.
        checkpoint_minutes: save, within an epoch too, when the last state is so old; 0 for never.
        checkpoints_kept: how many of the newest states stay until the training is over, at least 1.
        checkpoints_kept_best: how many of those with the best epochs stay, then too.
        checkpoints_kept_every: the state at the end of every so many epochs is saved and stays, then too; 0 for none.

    Attributes:
        training_epoch_loss_history, validation_epoch_loss_history, regularization_loss_history: one float per epoch.
        validation_metric_history: a list like these for each metric.
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
    run_params: ClassVar[frozenset[str]] = frozenset(field.name for field in fields(CheckpointPolicy))
    epochs_done: int
    test_score: float | None
    test_metrics: dict[str, float]
    _random_states: dict[str, Any] | None  # at the end of the epoch's last batch, while a tier is scored
    _resumed: dict[str, Any] | None  # of the checkpoint, until the training has gone on from there
    _watch: Watch | None  # while training

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
        reporter: Reporter | None = None,
        checkpoints: Checkpoints | None = None,
        stop: Stop | None = None,
        progress: Progress | None = None,
        metrics: Sequence[str] = (),
        selection: str = LOSS,
        parameter_history: bool = True,
        precision: str = "fp32",
        gradient_accumulation: int = 1,
        gradient_clip_norm: float | None = None,
        gradient_clip_value: float | None = None,
        scheduler_class_name: str | None = None,
        scheduler_class_params: Mapping[str, Any] = MappingProxyType({}),
        scheduler_steps: Literal["epoch", "batch"] = "epoch",
        warmup_steps: int = 0,
        early_stopping_patience: int = 0,
        training_strip_length: int = 5,
        successive_validation_score_decline_tolerance: int = 0,
        early_stopping_quotient: float | None = None,
        checkpoint_epochs: int | None = None,
        checkpoint_minutes: float = 10.0,
        checkpoints_kept: int = 2,
        checkpoints_kept_best: int = 0,
        checkpoints_kept_every: int = 0,
    ) -> None:
        self._options = TrainerOptions.of(locals())
        _require_integer(max_epoch, "max_epoch", at_least=1)
        _require_integer(seed, "seed", at_least=0)
        self.train_dataloader = train_dataloader
        self.validation_dataloader = validation_dataloader
        self.test_dataloader = test_dataloader
        self.device = _device(device)
        self.model_save_path = str(model_save_path)
        self.max_epoch = max_epoch
        self.seed = seed
        self.reporter = reporter
        self.checkpoints = checkpoints
        self.stop = stop
        self.progress = progress
        self.metrics = tuple(metrics)
        self.selection = selection

        self._build(model_class, model_class_params, criterion_class, criterion_class_params)
        self._build_update(optimizer_class, optimizer_class_params)
        self._begin(parameter_history)
        if not self._resume() and initial_weights is not None:
            BestWeights(initial_weights).load_into(self.model, self.device)

    def train(self) -> None:
        """Train the epochs not yet done, then load the best weights, write them to `model_save_path` and score them.

        Raises:
            TrainerError: a loss is infinite or not a number, or a loader yields nothing.
            Stopped: a stop was asked for; the state is saved if there are `checkpoints`.
        """
        if self.reporter is not None:
            self.reporter.started(self.epochs_done, self.max_epoch)
        self._watch = self._new_watch()
        try:
            self._train()
        except Stopped:
            self._resumed = self._random_states or randomness.capture(self.device)
            raise
        except BaseException:
            self._losses = EpochLosses()  # the epoch would be trained anew
            raise
        finally:
            self._watch = None

    def _train(self) -> None:
        if self._resumed is not None:
            randomness.restore(self._resumed, self.device)
            _tell_epoch(self.validation_dataloader, self.epochs_done, resumed=True)
        for epoch in range(self.epochs_done, self.max_epoch):
            if self._ends_early():
                break
            values = self._finish_epoch(*self._epoch(epoch))
            if self.reporter is not None:
                self.reporter.epoch_finished(epoch, values)
            if self._watch is not None:
                self._watch.after_epoch(self.epochs_done, self._histories.score)
        self._scoring_begins()
        _tell_epoch(self.test_dataloader, 0)
        self.load_best_performing_model()
        self._best.save(self.model)
        self.test_metrics = self._score(self.test_dataloader, "test")
        self.test_score = self.test_metrics[self.selection]

    def _ends_early(self) -> bool:
        """Whether the training stops before its limit of epochs; says why."""
        if self.best_epoch is None:
            return False
        reason = self._options.reason(
            best_epoch=self.best_epoch,
            scores=self._histories.scores,
            direction=self.metric_directions[self.selection],
            training_losses=self.training_epoch_loss_history,
            validation_losses=self.validation_epoch_loss_history,
        )
        if reason is None:
            return False
        self.choices["early_stop"] = f"after epoch {self.epochs_done}: {reason}"
        return True

    def validate(self) -> dict[str, float]:
        """The loss and every metric of the model as it is on the validation tier."""
        return self._score(self.validation_dataloader, "validation")

    def evaluate(self, return_outputs_targets_and_loss: bool = False) -> float | dict[str, Any]:
        """Run the model as it is over the test tier.

        Returns:
            The loss; or a dict of `outputs` and `targets`, NumPy arrays of all examples in the loader's order (in the
            batches' structure where there are several), and `loss`.
        """
        if not return_outputs_targets_and_loss:
            return self._score(self.test_dataloader, "test")[LOSS]
        kept: list[tuple[Any, Any]] = []
        values = self._score(self.test_dataloader, "test", kept)
        outputs, targets = zip(*kept, strict=True)
        return {"outputs": batches.concatenate(outputs), "targets": batches.concatenate(targets), LOSS: values[LOSS]}

    def load_best_performing_model(self) -> None:
        """Put the weights of the best epoch into the model: those kept in memory, else those of `model_save_path`.

        Raises:
            TrainerError: there are none, or they belong to another model.
        """
        self._best.load_into(self.model, self.device)

    def _build(
        self,
        model_class: type[nn.Module],
        model_class_params: Mapping[str, Any],
        criterion_class: Any,
        criterion_class_params: Mapping[str, Any],
    ) -> None:
        randomness.seed(self.seed)
        self.model = model_class(**model_class_params).to(self.device)
        self.criterion = criterion_class(**criterion_class_params)
        if isinstance(self.criterion, nn.Module):
            self.criterion.to(self.device)
        self.parameter_count = sum(parameter.numel() for parameter in self.model.parameters())

    def _build_update(
        self, optimizer_class: type[torch.optim.Optimizer], optimizer_class_params: Mapping[str, Any]
    ) -> None:
        self.choices: dict[str, str] = {}
        self.optimizer, implementation = optimizers.build(optimizer_class, self.model, optimizer_class_params)
        if implementation is not None:
            self.choices["optimizer_implementation"] = implementation
        precision = Precision(self._options.precision, self.device)
        self._losses_of = precision.computing(self._compute_losses)
        self._learning_rate = LearningRate(self._options, self.optimizer)
        self._update = Update(
            self.optimizer, list(self.model.parameters()), self._options, precision.scaler, self._learning_rate
        )

    def _begin(self, parameter_history: bool) -> None:
        """No epoch is done and nothing is recorded."""
        self.metric_directions: dict[str, Literal["max", "min"]] = {
            LOSS: "min",
            **{name: metric_registry.find(name).direction for name in self.metrics},
        }
        parameters = ParameterHistory(self.model) if parameter_history else None
        direction = self.metric_directions[self.selection]
        self._histories = Histories(self.metrics, self.selection, direction, parameters)
        self.training_epoch_loss_history = self._histories.training
        self.validation_epoch_loss_history = self._histories.validation
        self.regularization_loss_history = self._histories.regularization
        self.validation_metric_history = self._histories.metrics
        self.model_class_params_history_dict = parameters.values if parameters else {}
        self._best = BestWeights(self.model_save_path)
        self._losses = EpochLosses()  # of the epoch that is being trained
        self._random_states = self._resumed = self._watch = None
        self.epochs_done = 0
        self.best_epoch: int | None = None
        self.test_score = None
        self.test_metrics = {}

    def _new_watch(self) -> Watch | None:
        if self.checkpoints is None and self.stop is None and self.progress is None:
            return None
        retention = self._options.retention(self.metric_directions[self.selection])
        schedule = self._options.checkpoint_schedule()
        return Watch(self.checkpoints, self.stop, self.progress, schedule, retention, self._checkpoint)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _checkpoint(self) -> bytes:
        """The whole state between two batches."""
        state = {
            **learned_state.state(self.model, self.optimizer, self.criterion),
            "update": self._update.state(),
            "losses": self._losses.state(),
            "best": [self.best_epoch, self._best.state()],
            "histories": self._histories.state(),
            "choices": self.choices,
            "random": self._random_states or randomness.capture(self.device),
        }
        identity = learned_state.identity(self.model, self.optimizer)
        return pack(Header(self.epochs_done, len(self._losses), numerics.record(), identity), state)

    def _resume(self) -> bool:
        """Take up the state that `checkpoints` has, if it has one."""
        content = None if self.checkpoints is None else self.checkpoints.load()
        if content is None:
            return False
        header, state = unpack(content)
        learned_state.check_identity(header.identity, learned_state.identity(self.model, self.optimizer))
        learned_state.restore(state, self.model, self.optimizer, self.criterion)
        self._update.restore(state["update"])
        self.best_epoch, weights = state["best"]
        self._best.restore({name: tensor.to(self.device) for name, tensor in weights.items()})
        self._histories.restore(state["histories"])
        self.choices.update(state["choices"])
        self.epochs_done = header.epoch
        self._losses = EpochLosses.from_state(state["losses"])
        self._resumed = state["random"]
        return True

    def _epoch(self, epoch: int) -> tuple[float, float]:
        """Train through the rest of the training tier; returns the epoch's mean criterion and regularization loss."""
        self.model.train()
        losses, watch = self._losses, self._watch
        for batch in self._rest_of_epoch(epoch):
            inputs, targets = batches.split(batch)
            losses.add(*self._step(inputs, targets), batches.size(targets))
            if watch is not None:
                watch.after_batch(epoch, len(losses))
        _require_batches(losses, "training")
        self._update.end_epoch()
        means = losses.means()
        if not all(map(math.isfinite, means)):
            raise TrainerError(
                f"The training loss became infinite or not a number in epoch {epoch + 1} of {self.max_epoch}, step "
                f"{losses.first_non_finite() + 1} of {len(losses)}; check the data and the learning rate."
            )
        self._scoring_begins()
        return means

    def _scoring_begins(self) -> None:
        """Scoring is begun anew after an interruption, with the random states of now."""
        if self._watch is not None:
            self._random_states = randomness.capture(self.device)

    def _rest_of_epoch(self, epoch: int) -> Iterator[Any]:
        """The batches of the training tier that do not lie behind."""
        randomness.seed(randomness.epoch_seed(self.seed, epoch))
        resumed, self._resumed = self._resumed, None
        left_out = len(self._losses)
        skipped = _tell_epoch(self.train_dataloader, epoch, left_out, resumed=resumed is not None)
        rest = iter(self.train_dataloader)
        if resumed is not None and left_out:
            if not skipped:
                for _ in itertools.islice(rest, left_out):
                    pass
            randomness.restore(resumed, self.device)
        return rest

    def _step(self, inputs: Any, targets: Any) -> tuple[Tensor, Tensor | float]:
        """Learn from one batch; returns its criterion and regularization loss, detached."""
        loss, regularization, _ = self._losses_of(
            batches.to_device(inputs, self.device), batches.to_device(targets, self.device)
        )
        if isinstance(regularization, Tensor):
            self._update(loss + regularization)
            regularization = regularization.detach()
        else:
            self._update(loss)
        return loss.detach(), regularization

    def _compute_losses(self, inputs: Any, targets: Any) -> tuple[Tensor, Tensor | float, Any]:
        """Criterion loss, regularization loss and output of a batch."""
        output, regularization = output_and_regularization(self.model(inputs))
        return self._loss(output, targets), regularization, output

    def _loss(self, outputs: Any, targets: Any) -> Tensor:
        """The criterion on one output, or its sum over several."""
        if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
            loss = self.criterion(outputs, targets)
        else:
            losses = [self.criterion(output, target) for output, target in batches.pairs(outputs, targets)]
            loss = torch.stack(losses).sum(dim=0)
        if loss.dim():
            raise TrainerError(
                f"{type(self.criterion).__name__} returned a loss of shape {tuple(loss.shape)}; it must be a scalar, "
                'which torch\'s criteria return with reduction="mean".'
            )
        return loss

    def _finish_epoch(self, training_loss: float, regularization_loss: float) -> dict[str, float]:
        """Validate, record the epoch and keep its weights if they are the best; returns the epoch's values by name."""
        validation = self.validate()
        self._histories.record(training_loss, regularization_loss, validation)
        if self._histories.is_best(self.best_epoch):
            self.best_epoch = self.epochs_done
            self._best.keep(self.model)
        self._learning_rate.after_epoch(self._histories.score)
        self.epochs_done += 1
        self._losses = EpochLosses()
        self._random_states = None
        return {
            "training_loss": training_loss,
            "regularization_loss": regularization_loss,
            **{f"validation_{name}": value for name, value in validation.items()},
        }

    @torch.inference_mode()
    def _score(self, loader: Any, tier: str, kept: list[tuple[Any, Any]] | None = None) -> dict[str, float]:
        """Loss and metrics over a tier; outputs and targets go into `kept` where it is given."""
        self.model.eval()
        losses = EpochLosses()
        metrics = metric_registry.MetricSet(self.metrics)
        for batch in loader:
            inputs, targets = (batches.to_device(part, self.device) for part in batches.split(batch))
            loss, regularization, output = self._losses_of(inputs, targets)
            losses.add(loss, regularization, batches.size(targets))
            metrics.update(output, targets)
            if kept is not None:
                kept.append((batches.to_cpu(output), batches.to_cpu(targets)))
            if self._watch is not None:
                self._watch.after_batch(self.epochs_done, len(self._losses))
        _require_batches(losses, tier)
        return {LOSS: losses.means()[0], **metrics.compute()}


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


def _require_batches(losses: EpochLosses, tier: str) -> None:
    if not len(losses):
        raise TrainerError(
            f"The {tier} loader yielded no batch: it is empty, or smaller than one batch where short ones are dropped."
        )


def _tell_epoch(loader: Any, epoch: int, left_out: int = 0, *, resumed: bool = False) -> bool:
    """Choose a loader's epoch, where it can be chosen; returns whether it leaves out its first `left_out` batches."""
    if resumed and hasattr(loader, "resume"):
        loader.resume(epoch, left_out)
        return True
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    return False
