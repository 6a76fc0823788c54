"""The statistics of batch normalisation, computed anew for given weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def layers(model: nn.Module) -> list[_BatchNorm]:
    """The layers of a model that keep statistics and are in training mode."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.training
    ]


@torch.no_grad()
def recompute(chosen: Iterable[_BatchNorm], batches: Iterable[Any], call: Callable[[Any], Any]) -> None:
    """Set mean and variance of the chosen layers to those over all batches, each batch weighing the same.

    What `torch.optim.swa_utils.update_bn` does to all layers of a model: here some may be left as they are.

    Args:
        call: is given each batch and calls the model with it.
    """
    momenta = {layer: layer.momentum for layer in chosen}
    for layer in momenta:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over batches instead of a moving one
    try:
        for batch in batches:
            call(batch)
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
