"""From the loss of a batch to new weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainers.contract import TrainerError
from trainers.learning_rate import LearningRate


@dataclass(frozen=True)
class GradientPolicy:
    """The parameters of a trainer that say what happens to gradients; see `NNTrainer`.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    gradient_accumulation: int = 1
    gradient_clip_norm: float | None = None
    gradient_clip_value: float | None = None

    def __post_init__(self) -> None:
        batches = self.gradient_accumulation
        if not isinstance(batches, int) or isinstance(batches, bool) or batches < 1:
            raise TrainerError(f"gradient_accumulation is {batches!r}; it must be an integer of at least 1.")
        for name in ("gradient_clip_norm", "gradient_clip_value"):
            limit = getattr(self, name)
            if limit is not None and (
                not isinstance(limit, int | float) or isinstance(limit, bool) or not 0 < limit < math.inf
            ):
                raise TrainerError(f"{name} is {limit!r}; it must be a number above 0, or null for no limit.")

    @property
    def leaves_gradients(self) -> bool:
        """Whether every batch makes a step with its gradients as they are."""
        return self.gradient_accumulation == 1 and self.gradient_clip_norm is self.gradient_clip_value is None


class Update:
    """Takes a step of the optimizer for every `gradient_accumulation` batches, of whose losses it is the mean; the last
    ones of an epoch may be fewer.

    Args:
        optimizer: its parameters are `parameters`.
        policy: accumulation and limits.
        scaler: of the precision, or None.
        learning_rate: is told of every step.
        after_step: is called after every step that changed the weights.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[Tensor],
        policy: GradientPolicy,
        scaler: torch.amp.GradScaler | None,
        learning_rate: LearningRate,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._policy = policy
        self._scaler = scaler
        self._learning_rate = learning_rate
        self._pending = 0  # batches whose gradients wait for a step
        self._after_step = after_step
        self._plain = (
            policy.leaves_gradients and scaler is None and after_step is None and not learning_rate.changes_after_steps
        )

    def __call__(self, loss: Tensor) -> None:
        """Learn from the loss of one batch, a scalar."""
        if self._plain:
            self._clear()
            loss.backward()
            self._optimizer.step()
            return
        if not self._pending:
            self._clear()
        share = loss / self._policy.gradient_accumulation
        (share if self._scaler is None else self._scaler.scale(share)).backward()
        self._pending += 1
        if self._pending == self._policy.gradient_accumulation:
            self._step()

    def end_epoch(self) -> None:
        """Take the step for the batches that are left over."""
        if self._pending:
            missing = self._policy.gradient_accumulation / self._pending
            torch._foreach_mul_([p.grad for p in self._parameters if p.grad is not None], missing)
            self._step()

    def state(self) -> dict[str, Any]:
        """What `restore` takes, gradients that wait for a step included."""
        waiting = [parameter.grad for parameter in self._parameters] if self._pending else []
        return {
            "pending": self._pending,
            "gradients": waiting,
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
            "learning_rate": self._learning_rate.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another broke off."""
        self._pending = state["pending"]
        for parameter, gradient in zip(self._parameters, state["gradients"], strict=False):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])
            # It makes its tensors when it scales for the first time, which may be too late: gradients that wait take a
            # step without another batch where a training was interrupted after an epoch's last one.
            self._scaler.scale(torch.zeros((), device=self._parameters[0].device))
        self._learning_rate.restore(state["learning_rate"])

    def _clear(self) -> None:
        # What Optimizer.zero_grad does, without its profiling and hooks in every step.
        for parameter in self._parameters:
            parameter.grad = None

    def _step(self) -> None:
        self._pending = 0
        policy = self._policy
        if self._scaler is not None and (policy.gradient_clip_norm or policy.gradient_clip_value):
            self._scaler.unscale_(self._optimizer)
        if policy.gradient_clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._parameters, policy.gradient_clip_value)
        if policy.gradient_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, policy.gradient_clip_norm)
        self._learning_rate.around_step(self._optimizer_step)

    def _optimizer_step(self) -> bool:
        """Returns whether the weights have changed: gradients that overflowed in fp16 are left out."""
        taken = True
        if self._scaler is None:
            self._optimizer.step()
        else:
            asked = self._after_step is not None or self._learning_rate.changes_after_steps
            scale = self._scaler.get_scale() if asked else 0.0  # waits for the device
            self._scaler.step(self._optimizer)
            self._scaler.update()
            taken = not asked or self._scaler.get_scale() >= scale
        if taken and self._after_step is not None:
            self._after_step()
        return taken
