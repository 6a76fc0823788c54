"""In which number format a model computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trainers.contract import TrainerError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """fp32, or the automatic mixed precision of torch: weights stay float32, what tolerates it computes in less.

    Args:
        name: "fp32", "bf16" or "fp16".
        device: where the model is.

    Attributes:
        scaler: scales the loss so that small gradients survive in fp16 (Micikevicius et al. 2018); None without need.

    Raises:
        TrainerError: there is no such precision, or the device cannot compute in it.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._device_type = device.type
        self._dtype = DTYPES[check_name(name)]
        if device.type == "cuda" and name == "bf16" and not torch.cuda.is_bf16_supported():
            raise TrainerError(f"precision is 'bf16', which {torch.cuda.get_device_name(device)} lacks; choose 'fp16'.")
        if self._dtype is not None and not torch.amp.is_autocast_available(device.type):
            raise TrainerError(f"precision is {name!r}, which torch does not offer on {device.type}; choose 'fp32'.")
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def computing(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, computing in this precision; itself in fp32."""
        if self._dtype is None:
            return compute

        def mixed(*args: Any) -> Any:
            with torch.autocast(self._device_type, self._dtype):
                return compute(*args)

        return mixed


def check_name(name: Any) -> str:
    """The name of a precision.

    Raises:
        TrainerError: there is none of this name.
    """
    if name not in DTYPES:
        raise TrainerError(f"precision is {name!r}; choose one of {', '.join(DTYPES)}.")
    return str(name)
