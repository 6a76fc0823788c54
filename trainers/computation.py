"""How a model is computed: in which precision and layout, compiled or not."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainers import numerics
from trainers.contract import TrainerError
from trainers.precision import check_name

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
CHECKPOINTING_METHODS = ("enable_gradient_checkpointing", "gradient_checkpointing_enable")


@dataclass(frozen=True)
class ComputationPolicy:
    """The parameters of a trainer that say it. All of them may change the last bits of a result.

    Args:
        precision: "fp32", "bf16" or "fp16": the automatic mixed precision of torch; weights stay float32.
        tf32: whether float32 matrix products and convolutions on NVIDIA GPUs round their factors to 10 bits of
            mantissa, which is several times as fast; None as torch has it (convolutions do). Elsewhere it does nothing,
            and `choices` says so.
        compile: the mode of `torch.compile`: "default", "reduce-overhead", "max-autotune" or
            "max-autotune-no-cudagraphs"; None for none. Every shape of a batch is compiled for itself, up to
            torch's limit (`torch._dynamo.config.recompile_limit`).
        channels_last: keep the weights of convolutions and images with their channels last, which suits the kernels of
            most devices; needs an input of three dimensions (channels, height, width).
        deterministic: take operations whose result does not vary from run to run, and refuse those that have none
            (`torch.use_deterministic_algorithms`).
        gradient_checkpointing: call the model's own `enable_gradient_checkpointing()` or
            `gradient_checkpointing_enable()`, after which it computes activations again instead of keeping them.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    precision: str = "fp32"
    tf32: bool | None = None
    compile: str | None = None
    channels_last: bool = False
    deterministic: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_name(self.precision)
        if self.compile is not None and self.compile not in COMPILE_MODES:
            raise TrainerError(f"compile is {self.compile!r}; choose one of {', '.join(COMPILE_MODES)}, or null.")
        if not isinstance(self.tf32, bool | None):
            raise TrainerError(f"tf32 is {self.tf32!r}; it must be true, false or null.")
        for name in ("channels_last", "deterministic", "gradient_checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise TrainerError(f"{name} is {getattr(self, name)!r}; it must be true or false.")

    def arrange(self, model: nn.Module, params: Mapping[str, Any]) -> None:
        """Bring a new model, built with these parameters, into the layout that the policy says.

        Raises:
            TrainerError: the model or its input does not offer it.
        """
        if self.gradient_checkpointing:
            _enable_gradient_checkpointing(model)
        if self.channels_last:
            if not _has_images(params.get("input_shape")):
                raise TrainerError(
                    f"channels_last is true, but input_shape is {params.get('input_shape')!r}; it needs an input of "
                    "three dimensions, (channels, height, width)."
                )
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compile_in_place(self, model: nn.Module, device: torch.device) -> None:
        """Let calls of the model run compiled, where the policy says so. The names of its weights stay as they are.

        Raises:
            TrainerError: nothing can be compiled for this device here.
        """
        if self.compile is None:
            return
        try:
            _try_compiler(device)
        except Exception as error:  # whatever the compiler of another vendor may raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise TrainerError(
                f"compile is {self.compile!r}, but torch compiles nothing for {device.type} here ({reason}); install "
                "a C++ compiler such as g++, or leave compile out."
            ) from error
        # What other trainings of this process compiled counts towards torch's limit, beyond which nothing is compiled.
        torch.compiler.reset()
        # Without dynamic=False the code for a shape would depend on the shapes before it, and a resumed training has
        # seen others.
        model.compile(mode=self.compile, dynamic=False)

    def numerics(self, device: torch.device) -> AbstractContextManager[None]:
        """Set torch as the policy says while the context is entered, and put its settings back afterwards."""
        if self.tf32 is None and not self.deterministic:
            return nullcontext()
        return numerics.during(tf32=self.tf32 if device.type == "cuda" else None, deterministic=self.deterministic)


@functools.cache
def _try_compiler(device: torch.device) -> None:
    """Compile a small function for a device and call it; raises what torch raises. Only success is remembered."""
    torch.compile(_double, dynamic=False)(torch.ones(2, device=device))


def _double(x: Tensor) -> Tensor:
    return x + x


def _enable_gradient_checkpointing(model: nn.Module) -> None:
    for name in CHECKPOINTING_METHODS:
        enable = getattr(model, name, None)
        if callable(enable):
            enable()
            return
    raise TrainerError(
        f"gradient_checkpointing is true, but {type(model).__name__} has no method "
        f"{' or '.join(CHECKPOINTING_METHODS)}; give it one, which makes its forward use torch.utils.checkpoint."
    )


def _has_images(shape: Any) -> bool:
    """Whether one of the inputs has three dimensions without the batch's."""
    if isinstance(shape, Mapping):
        return any(map(_has_images, shape.values()))
    if isinstance(shape, list | tuple):
        return len(shape) == 3 if all(isinstance(side, int) for side in shape) else any(map(_has_images, shape))
    return False
