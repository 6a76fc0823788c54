"""On how many devices a model is trained."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.contract import TrainerError


@dataclass(frozen=True)
class DevicesPolicy:
    """The parameter of a trainer that says it.

    Args:
        devices: processes that train together, each on a device of its own. A loader's batch size is that of each of
            them, so that a step of the optimizer learns from `devices` times as many examples.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    devices: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.devices, int) or isinstance(self.devices, bool) or self.devices < 1:
            raise TrainerError(f"devices is {self.devices!r}; it must be an integer of at least 1.")
