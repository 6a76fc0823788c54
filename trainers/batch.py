"""What a loader yields: inputs and targets, each a tensor or a list, tuple or dict of such structures.

The first dimension of every tensor counts the examples. Lists, tuples and dicts keep their type and order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.contract import TrainerError


def split(batch: Any) -> tuple[Any, Any]:
    """The inputs and the targets of a batch.

    Raises:
        TrainerError: the batch is no pair.
    """
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return batch[0], batch[1]
    raise TrainerError(
        f"The loader yielded {_describe(batch)} where a pair (inputs, targets) is needed; "
        "several inputs or targets go into a list, tuple or dict of their own."
    )


def size(structure: Any) -> int:
    """The number of examples: the length of the first tensor's first dimension.

    Raises:
        TrainerError: the first leaf is no tensor.
    """
    first = structure if isinstance(structure, Tensor) else next(leaves(structure))
    if not isinstance(first, Tensor):
        raise _no_tensor(first)
    return first.shape[0]


def to_device(structure: Any, device: torch.device) -> Any:
    """The same structure on `device`, copied only where it lies elsewhere, without waiting for the copy.

    Raises:
        TrainerError: a leaf is no tensor.
    """
    if isinstance(structure, Tensor):
        return structure if structure.device == device else structure.to(device, non_blocking=True)
    if isinstance(structure, dict):
        return {name: to_device(part, device) for name, part in structure.items()}
    if isinstance(structure, list | tuple):
        return _rebuild(structure, [to_device(part, device) for part in structure])
    raise _no_tensor(structure)


def channels_last(structure: Any) -> Any:
    """The same structure with tensors of four dimensions in this layout, copied only where they have another."""
    if isinstance(structure, dict):
        return {name: channels_last(part) for name, part in structure.items()}
    if isinstance(structure, list | tuple):
        return _rebuild(structure, [channels_last(part) for part in structure])
    return structure.contiguous(memory_format=torch.channels_last) if structure.dim() == 4 else structure


def leaves(structure: Any) -> Iterator[Tensor]:
    """The tensors of a structure, in order."""
    if isinstance(structure, dict):
        structure = list(structure.values())
    if isinstance(structure, list | tuple):
        for part in structure:
            yield from leaves(part)
    else:
        yield structure


def pairs(outputs: Any, targets: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """The tensors of the outputs beside those of the targets; dicts are matched by name, lists and tuples by place.

    Raises:
        TrainerError: the structures differ.
    """
    if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
        yield outputs, targets
    elif isinstance(outputs, dict) and isinstance(targets, dict) and outputs.keys() == targets.keys():
        for name, part in outputs.items():
            yield from pairs(part, targets[name])
    elif isinstance(outputs, list | tuple) and isinstance(targets, list | tuple) and len(outputs) == len(targets):
        for output, target in zip(outputs, targets, strict=True):
            yield from pairs(output, target)
    else:
        raise TrainerError(
            f"The model's output is {_describe(outputs)} and the target {_describe(targets)}; "
            "with several targets a model must give its outputs in the same list or dict."
        )


def to_numpy(structure: Any) -> Any:
    """The same structure as NumPy arrays; bfloat16, which NumPy lacks, as float32."""
    if isinstance(structure, dict):
        return {name: to_numpy(part) for name, part in structure.items()}
    if isinstance(structure, list | tuple):
        return _rebuild(structure, [to_numpy(part) for part in structure])
    return _to_numpy(structure)


def concatenate(batches: Sequence[Any]) -> Any:
    """Batches of one structure joined along the examples, as NumPy arrays; bfloat16, which NumPy lacks, as float32."""
    first = batches[0]
    if isinstance(first, dict):
        return {name: concatenate([batch[name] for batch in batches]) for name in first}
    if isinstance(first, list | tuple):
        return _rebuild(first, [concatenate(parts) for parts in zip(*batches, strict=True)])
    return np.concatenate([_to_numpy(batch) for batch in batches])


def to_cpu(structure: Any) -> Any:
    """The same structure in main memory, ready to be read."""
    if isinstance(structure, dict):
        return {name: to_cpu(part) for name, part in structure.items()}
    if isinstance(structure, list | tuple):
        return _rebuild(structure, [to_cpu(part) for part in structure])
    return structure.detach().cpu()


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _rebuild(structure: list | tuple, parts: list) -> Any:
    if hasattr(structure, "_fields"):
        return type(structure)(*parts)
    return type(structure)(parts)


def _no_tensor(leaf: Any) -> TrainerError:
    return TrainerError(
        f"A batch holds {_describe(leaf)}; inputs and targets must be tensors, or lists, tuples or dicts of them."
    )


def _describe(structure: Any) -> str:
    if isinstance(structure, Tensor):
        return f"a tensor of shape {tuple(structure.shape)}"
    if isinstance(structure, dict):
        return f"a dict of {', '.join(map(repr, structure))}"
    if isinstance(structure, list | tuple):
        return f"a {type(structure).__name__} of {len(structure)}"
    return f"a {type(structure).__name__}"
