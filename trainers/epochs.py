"""The epochs of a training, one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from trainers import randomness
from trainers.best_weights import BestWeights
from trainers.contract import Reporter, TrainerError
from trainers.epoch_losses import EpochLosses
from trainers.histories import LOSS, Histories
from trainers.learner import Learner
from trainers.loader_position import rest_of_epoch, tell_epoch
from trainers.process_group import ProcessGroup
from trainers.scoring import require_batches
from trainers.share import sharing
from trainers.trainer_options import TrainerOptions
from trainers.training_state import TrainingState
from trainers.watch import Watch


class Epochs:
    """Trains, validates where that is due, keeps the best weights, and records what comes out.

    Args:
        options, learner, state, histories, best, group, device, seed: those of the training.
        max_epoch: the number of epochs.
        train_dataloader, validation_dataloader: of these tiers.
        directions: for the loss and every metric, whether "max" or "min" is best.
        validate: scores the model on the validation tier: the loss and every metric by name.
        reporter: is told of each epoch, or None.
        watch: watches the training, or None.
    """

    def __init__(
        self,
        options: TrainerOptions,
        *,
        learner: Learner,
        state: TrainingState,
        histories: Histories,
        best: BestWeights,
        group: ProcessGroup,
        device: torch.device,
        seed: int,
        max_epoch: int,
        train_dataloader: Any,
        validation_dataloader: Any,
        directions: Mapping[str, Literal["max", "min"]],
        validate: Callable[[], dict[str, float]],
        reporter: Reporter | None,
        watch: Watch | None,
    ) -> None:
        self._options = options
        self._learner = learner
        self._state = state
        self._histories = histories
        self._best = best
        self._group = group
        self._device = device
        self._seed = seed
        self._max_epoch = max_epoch
        self._train_dataloader = train_dataloader
        self._validation_dataloader = validation_dataloader
        self._directions = directions
        self._validate = validate
        self._reporter = reporter
        self._share = sharing(group)
        self._watch = watch

    def train(self) -> None:
        """Train the epochs that do not lie behind.

        Raises:
            TrainerError: a loss is infinite or not a number, a loader yields nothing, or early stopping has ended the
                training that this one goes on from and would end it again.
        """
        state = self._state
        if state.of_another and self._ends_early():
            raise TrainerError(
                f"The training that this one goes on from ended {self._learner.choices['early_stop']}, which would end "
                "this one at once; let its early stopping be more patient."
            )
        state.of_another = False
        if state.resumed is not None:
            randomness.restore(state.resumed, self._device)
            tell_epoch(self._validation_dataloader, len(self._histories.steps), resumed=True)
        for epoch in range(state.epochs_done, self._max_epoch):
            if not len(state.losses) and self._ends_early():  # an epoch that was begun is ended
                break
            validations = len(self._histories.steps)
            values = self._finish_epoch(*self._epoch(epoch))
            if self._reporter is not None:
                self._reporter.epoch_finished(epoch, values)
            if self._watch is not None:
                was_validated = len(self._histories.steps) > validations
                self._watch.after_epoch(state.epochs_done, self._histories.score if was_validated else None)
        if self._watch is not None:
            self._watch.after_training(state.epochs_done)

    def scoring_begins(self) -> None:
        """Scoring is begun anew after an interruption, with the random states of now."""
        if self._watch is not None and self._watch.saves:
            self._state.random_states = randomness.capture(self._device)

    def _ends_early(self) -> bool:
        """Whether the training stops before its limit of epochs; says why."""
        histories, metric = self._histories, self._options.stopping_metric
        best = histories.best(metric)
        if best is None:
            return False
        by_epoch = len(histories.steps) == self._state.epochs_done
        reason = self._options.reason(
            best=best,
            scores=histories.points[metric],
            direction=self._directions[metric],
            training_losses=histories.training_by_point,
            validation_losses=histories.points[LOSS],
            unit="epoch" if by_epoch else "validation",
        )
        if reason is None:
            return False
        self._learner.choices["early_stop"] = f"after epoch {self._state.epochs_done}: {reason}"
        return True

    def _epoch(self, epoch: int) -> tuple[float, float]:
        """Train through the rest of the training tier; returns the epoch's mean criterion and regularization loss."""
        learner, state = self._learner, self._state
        step, losses, after_batch, share = learner.step, state.losses, self._after_batch(), self._share
        learner.training_mode()
        randomness.seed(randomness.epoch_seed(self._seed, epoch, self._group.rank))
        rest = rest_of_epoch(self._train_dataloader, epoch, len(losses), state.resumed, self._device)
        state.resumed = state.random_states = None
        self._validate_if_due()  # where a validation within the epoch was interrupted
        for number, batch in enumerate(rest, start=len(losses) + 1):
            inputs, targets, size, weight = share(batch)
            losses.add(*step(inputs, targets, weight), size)
            if after_batch is not None:
                after_batch(epoch, number)
        require_batches(losses, "training")
        learner.update.end_epoch()
        if self._group.size > 1:
            losses = self._of_whole_batches(losses)
        means = losses.means()
        if not all(map(math.isfinite, means)):
            raise TrainerError(
                f"The training loss became infinite or not a number in epoch {epoch + 1} of {self._max_epoch}, step "
                f"{losses.first_non_finite() + 1} of {len(losses)}; check the data and the learning rate."
            )
        learner.averaging.after_epoch(epoch + 1)
        self.scoring_begins()
        return means

    def _of_whole_batches(self, losses: EpochLosses) -> EpochLosses:
        """The losses of an epoch of all ranks together."""
        order = getattr(self._train_dataloader, "order_checksum", None)
        found = self._group.gather({"losses": losses.state(), "order": order})
        if any(of_rank["order"] != order for of_rank in found):
            raise TrainerError(
                "The devices have read the training tier in different orders; let its sampler draw from the global "
                "generators of torch, NumPy or Python, or from its seed and epoch alone."
            )
        return EpochLosses.joined([of_rank["losses"] for of_rank in found])

    def _after_batch(self) -> Callable[[int, int], None] | None:
        """What is to be called after each batch of training with the epoch and the batches of it that lie behind."""
        watched = None if self._watch is None else self._watch.after_each_batch()
        if not self._options.validation_steps:
            return watched

        def watched_and_validated(epoch: int, step: int) -> None:
            if watched is not None:
                watched(epoch, step)
            self._validate_if_due()

        return watched_and_validated

    def _finish_epoch(self, training_loss: float, regularization_loss: float) -> dict[str, float]:
        """Validate if that is due and record the epoch; returns the epoch's values by name."""
        state, histories = self._state, self._histories
        due = self._options.due_after_epoch(state.epochs_done + 1, self._max_epoch)
        if due and state.steps > histories.last_step:
            self._validated()
        validation = histories.record_epoch(training_loss, regularization_loss)
        self._learner.learning_rate.after_epoch()
        state.end_epoch()
        return {
            "training_loss": training_loss,
            "regularization_loss": regularization_loss,
            **{f"validation_{name}": value for name, value in validation.items()},
        }

    def _validate_if_due(self) -> None:
        """Validate within an epoch, if that is due after so many batches and not yet done."""
        state = self._state
        if self._options.due_after_step(state.steps) and state.steps > self._histories.last_step:
            self.scoring_begins()
            self._validated()
            state.random_states = None
            self._learner.training_mode()

    def _validated(self) -> None:
        """Validate, record that, and keep the weights if they are the best."""
        result = self._learner.averaging.result
        with self._learner.objective.calling(result):
            values = self._validate()
        if self._histories.record_validation(self._state.steps, values):
            self._state.best_epoch = self._state.epochs_done
            self._best.keep(result)
        self._learner.learning_rate.after_validation(self._histories.score)
