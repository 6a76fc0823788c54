"""The weights of the best epoch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from trainers.contract import TrainerError


class BestWeights:
    """A copy of a model's parameters and buffers beside the model, and a safetensors file of them.

    The copy is made once and overwritten, so that keeping an epoch costs no more than copying the weights on the
    device; the file is written when `save` is called. Weights shared between layers are stored once.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._copies: dict[str, Tensor] = {}

    @torch.no_grad()
    def keep(self, model: nn.Module) -> None:
        """Remember the model's present weights in place of those kept before."""
        state = model.state_dict()
        if self._copies:
            for name, tensor in state.items():
                self._copies[name].copy_(tensor)
        else:
            self._copies = {name: tensor.clone() for name, tensor in state.items()}

    def state(self) -> dict[str, Tensor]:
        """The kept weights themselves, empty where none were kept; for `restore`."""
        return self._copies

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Keep these weights, as `state` gave them; they must lie on the model's device."""
        self._copies = dict(state)

    def load_into(self, model: nn.Module, device: torch.device) -> None:
        """Put the kept weights into the model; those of the file where none were kept in this process.

        Raises:
            TrainerError: there is no file, or it belongs to another model.
        """
        if self._copies:
            model.load_state_dict(self._copies)
            return
        try:
            safetensors.torch.load_model(model, self.path, strict=True, device=str(device))
        except FileNotFoundError as error:
            raise TrainerError(f"There are no weights at {self.path}; call train() first.") from error
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise TrainerError(f"The weights at {self.path} do not fit {type(model).__name__}: {error}") from error

    def save(self, model: nn.Module) -> None:
        """Write the model's present weights to the file, which is replaced whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        os.close(handle)
        try:
            safetensors.torch.save_model(model, temporary)
            os.replace(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise
