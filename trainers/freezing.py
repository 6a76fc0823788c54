"""Parameters that are not trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from trainers.contract import TrainerError


@dataclass(frozen=True)
class FreezingPolicy:
    """The parameter of a trainer that says it.

    Args:
        frozen: beginnings of parameter names, in whole parts: "encoder" is ``encoder.weight``, not ``encoder2.weight``.
            These parameters get no gradients and stay as they are. Layers of batch normalisation by such a name stay
            wholly as they are: they use their running statistics in training, too, and do not change them.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    frozen: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.frozen, str) or not isinstance(self.frozen, Sequence):
            raise TrainerError(f'frozen is {self.frozen!r}; it must be a list of names such as ["encoder"].')
        for prefix in self.frozen:
            if not isinstance(prefix, str) or not prefix:
                raise TrainerError(f"frozen has {prefix!r}; it must be the beginning of a parameter's name.")


class Frozen:
    """The frozen part of a model, which is frozen when this is made.

    Raises:
        TrainerError: a name is that of no parameter, or nothing is left to be trained.
    """

    def __init__(self, policy: FreezingPolicy, model: nn.Module) -> None:
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        for prefix in policy.frozen:
            if not any(begins_with(name, prefix) for name in names):
                raise TrainerError(f"frozen has {prefix!r}, which begins no parameter's name; they are {_some(names)}.")
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if any(begins_with(name, prefix) for prefix in policy.frozen):
                parameter.requires_grad_(False)
        if policy.frozen and not any(parameter.requires_grad for parameter in model.parameters()):
            raise TrainerError(f"frozen is {list(policy.frozen)}: nothing is left to be trained; leave some out.")
        self._norms = [
            module
            for name, module in model.named_modules()
            if isinstance(module, _NormBase) and any(begins_with(name, prefix) for prefix in policy.frozen)
        ]

    def hold(self) -> None:
        """Put the frozen layers back into scoring mode, after the model was put into training mode."""
        for module in self._norms:
            module.eval()


def begins_with(name: str, prefix: str) -> bool:
    """Whether a dotted name begins with the whole parts of a prefix; every name begins with the empty one."""
    return not prefix or name == prefix or name.startswith(f"{prefix.removesuffix('.')}.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
