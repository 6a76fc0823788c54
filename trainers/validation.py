"""When a model is validated while it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.contract import TrainerError


@dataclass(frozen=True)
class ValidationPolicy:
    """The parameters of a trainer that say it. The first and the last epoch end with a validation in any case.

    Args:
        validation_epochs: at the end of every so many epochs: of the first, of those whose number, counted from 1, is
            a multiple, and of the last.
        validation_steps: after every so many batches, counted over the whole training, instead of at the ends of
            epochs; 0 for at the ends of epochs.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    validation_epochs: int = 1
    validation_steps: int = 0

    def __post_init__(self) -> None:
        for name, least in {"validation_epochs": 1, "validation_steps": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TrainerError(f"{name} is {value!r}; it must be an integer of at least {least}.")
        if self.validation_steps and self.validation_epochs > 1:
            raise TrainerError("validation_epochs and validation_steps both say when to validate; set one of them.")

    def due_after_step(self, step: int) -> bool:
        """Whether to validate when so many batches of the training lie behind."""
        return self.validation_steps > 0 and step % self.validation_steps == 0

    def due_after_epoch(self, epoch: int, max_epoch: int) -> bool:
        """Whether to validate at the end of this epoch, counted from 1, if it was not done at its last batch."""
        if epoch in (1, max_epoch):
            return True
        return not self.validation_steps and epoch % self.validation_epochs == 0
