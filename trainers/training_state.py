"""Everything of a training that changes while it runs: what a checkpoint holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainers import learned_state, randomness
from trainers.averaging import Averaging
from trainers.best_weights import BestWeights
from trainers.checkpoint import Header, pack, unpack
from trainers.contract import Checkpoints, TrainerError
from trainers.epoch_losses import EpochLosses
from trainers.histories import Histories
from trainers.process_group import ProcessGroup
from trainers.update import Update


class TrainingState:
    """A training between two batches.

    Args:
        model, optimizer, criterion, update, averaging, best, histories, choices: those of the training, which go on
            changing where they are.
        device: where the model is.
        group: who trains together.

    Attributes:
        epochs_done: how many epochs lie behind.
        best_epoch: the epoch, counted from 0, whose weights are kept; None before the first validation.
        losses: of the epoch that is being trained.
        random_states: where a tier is being scored, those from before it, since scoring is begun anew after an
            interruption.
        resumed: the random states to go on with, until the training has gone on.
        of_another: whether this is the last state of another training, until this one has gone on.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        criterion: Any,
        update: Update,
        averaging: Averaging,
        best: BestWeights,
        histories: Histories,
        choices: dict[str, str],
        device: torch.device,
        group: ProcessGroup,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._criterion = criterion
        self._update = update
        self._averaging = averaging
        self._best = best
        self._histories = histories
        self._choices = choices
        self._device = device
        self._group = group
        self._steps_before = 0  # batches of the epochs that lie behind
        self.epochs_done = 0
        self.best_epoch: int | None = None
        self.losses = EpochLosses()
        self.random_states: dict[str, Any] | None = None
        self.resumed: dict[str, Any] | None = None
        self.of_another = False

    @property
    def steps(self) -> int:
        """How many batches of the whole training lie behind."""
        return self._steps_before + len(self.losses)

    def end_epoch(self) -> None:
        """The epoch that was being trained lies behind, with all that belongs to it."""
        self._steps_before += len(self.losses)
        self.epochs_done += 1
        self.losses = EpochLosses()
        self.random_states = None

    def interrupt(self) -> None:
        """The training is left here, to go on here."""
        self.resumed = self.random_states or randomness.capture(self._device)

    @torch.inference_mode(False)
    @torch.no_grad()
    def pack(self, settings: Mapping[str, Any]) -> bytes:
        """A checkpoint of a training that runs with these numerics; of one of several ranks only the first has it, but
        all take part.

        Raises:
            trainers.learned_state.UnstorableState: a checkpoint cannot hold it.
        """
        update = self._update.state()
        learned_state.check_storable(update["learning_rate"], "scheduler")
        learned = learned_state.state(self._model, self._optimizer, self._criterion)
        own, *others = self._group.gather(
            {"losses": self.losses.state(), "random": self.random_states or randomness.capture(self._device)}
        )
        if not self._group.leads:
            return b""
        state = {
            **learned,
            "update": update,
            "averaging": self._averaging.state(),
            "steps_before": self._steps_before,
            "best": [self.best_epoch, self._best.state()],
            "histories": self._histories.state(),
            "choices": self._choices,
            **own,
            **({"others": others} if others else {}),  # of the other ranks
        }
        identity = learned_state.identity(self._model, self._optimizer)
        return pack(Header(self.epochs_done, len(self.losses), dict(settings), identity), state)

    def resume(self, checkpoints: Checkpoints | None) -> bool:
        """Take up the newest state of this training, if the first rank's `checkpoints` have one; returns whether they
        do.

        Raises:
            trainers.checkpoint.DamagedCheckpoint: it is none.
            trainers.learned_state.ForeignCheckpoint: it is that of something else.
        """
        content = self._group.hand_out(None if checkpoints is None else checkpoints.load())
        if content is not None:
            self._restore(content)
        return content is not None

    def go_on_from(self, path: str | os.PathLike[str], max_epoch: int) -> None:
        """Take up the last state of another training from a file that the first rank reads, to go on up to `max_epoch`
        epochs.

        Raises:
            TrainerError: as many epochs lie behind already.
            trainers.checkpoint.DamagedCheckpoint: it is none.
            trainers.learned_state.ForeignCheckpoint: it is that of something else.
        """
        content = self._group.hand_out(Path(path).read_bytes() if self._group.leads else None)
        assert content is not None, "the first rank has read it"
        try:
            self._restore(content)
        except learned_state.ForeignCheckpoint as error:
            raise learned_state.ForeignCheckpoint(
                f"This training cannot go on from the state that it is given: {error.difference}; give both the same "
                "model, optimizer and devices, or begin from the other's weights instead.",
                error.difference,
            ) from error
        self._choices.pop("early_stop", None)  # of the other
        self.of_another = True
        if self.epochs_done >= max_epoch:
            raise TrainerError(
                f"The state that this training is to go on from is that after {self.epochs_done} epochs, and max_epoch "
                f"is {max_epoch}; set it to more."
            )

    def _restore(self, content: bytes) -> None:
        """Take up a checkpoint."""
        header, state = unpack(content)
        ranks = [state, *state.get("others", ())]
        if len(ranks) != self._group.size:
            difference = f"it is that of a training on {len(ranks)} devices, not {self._group.size}"
            raise learned_state.ForeignCheckpoint(
                f"The checkpoint is that of a training on {len(ranks)} devices, not {self._group.size}; resume it with "
                "as many, or remove the task's checkpoints to start anew.",
                difference,
            )
        learned_state.check_identity(header.identity, learned_state.identity(self._model, self._optimizer))
        learned_state.restore(state, self._model, self._optimizer, self._criterion)
        self._update.restore(state["update"])
        self._averaging.restore(state["averaging"])
        self.best_epoch, weights = state["best"]
        self._best.restore({name: tensor.to(self._device) for name, tensor in weights.items()})
        self._histories.restore(state["histories"])
        self._choices.update(state["choices"])
        self._steps_before = state["steps_before"]
        self.epochs_done = header.epoch
        self.losses = EpochLosses.from_state(ranks[self._group.rank]["losses"])
        self.resumed = ranks[self._group.rank]["random"]
