"""What predictions are made for: every example of a tier, of a stored dataset or of a file, in its own order."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from datasets_impl.arrays import ArrayDataset, example_shape
from datasets_impl.loaders import BatchLoader
from datasets_impl.samplers import EpochSampler

from . import dataset_store
from .errors import PipelineError
from .training_spec import Component

INPUTS, TARGETS = "inputs", "targets"
SUFFIXES = (".npy", ".npz", ".h5", ".hdf5")


class UnsuitableData(PipelineError, ValueError):
    """A file or stored dataset holds nothing that a model could be applied to."""


@dataclass(frozen=True)
class Examples:
    """Examples to predict.

    Attributes
    ----------
    loader : gives batches (inputs, targets), or inputs alone where there are no targets.
    count : of the examples.
    has_targets : whether there are targets.
    """

    loader: Any
    count: int
    has_targets: bool


def of_tier(
    row: Mapping[str, Any],
    dataset: Component,
    directory: Path,
    tier: str,
    *,
    batch_size: int,
    seed: int,
    num_workers: int,
    resources: ExitStack,
) -> Examples:
    """All examples of a tier of a dataset configuration, whatever its samplers say; `resources` ends the loader."""
    examples = dataset.cls(dict(row), str(directory), tier, **dataset.params)
    loader = _in_order(examples, batch_size, seed, num_workers)
    resources.callback(loader.close)
    return Examples(loader, len(examples), True)


def of_arrays(arrays: Mapping[str, Any], model: torch.nn.Module, batch_size: int) -> Examples:
    """All rows of ``inputs`` and, where they are there, ``targets``; real numbers become those of the model's weights.

    Raises
    ------
    datasets_impl.contract.DatasetError
        If the arrays do not belong together or hold no numbers.
    """
    weights = (weight.dtype for weight in model.parameters() if weight.is_floating_point())
    examples = ArrayDataset(arrays[INPUTS], arrays.get(TARGETS), next(weights, torch.float32))
    return Examples(_in_order(examples, batch_size, 0, 0), len(examples), arrays.get(TARGETS) is not None)


def _in_order(examples: Any, batch_size: int, seed: int, num_workers: int) -> BatchLoader:
    order = EpochSampler(len(examples), seed=seed, shuffle=False)
    return BatchLoader(
        examples, batch_size=batch_size, sampler=order, drop_last=False, seed=seed, num_workers=num_workers
    )


def named_arrays(dataset: Any) -> dict[str, Any]:
    """The ``inputs`` and ``targets`` of a stored dataset: a dict of these two, or inputs alone, whatever they are."""
    if isinstance(dataset, Mapping) and INPUTS in dataset and dataset.keys() <= {INPUTS, TARGETS}:
        return dict(dataset)
    return {INPUTS: dataset}


def stored_shape(path: Path, name: str) -> Any:
    """The shape of one example of a stored dataset, which lies in this file; `name` is for messages."""
    with dataset_store.opened(path, name) as dataset:
        return checked_shape(named_arrays(dataset), name)


def checked_shape(arrays: Mapping[str, Any], name: str) -> Any:
    """The shape of one example of the inputs, if these are arrays of examples."""
    try:
        ArrayDataset(arrays[INPUTS], arrays.get(TARGETS))
    except ValueError as error:
        raise UnsuitableData(f"{name} cannot be predicted: {error}") from error
    return example_shape(arrays[INPUTS])


@contextmanager
def opened_file(path: Path, tier: str) -> Iterator[dict[str, Any]]:
    """The arrays of a file, ``inputs`` and perhaps ``targets``.

    A ``.npy`` holds inputs. A ``.npz`` holds them by these names, or one array of inputs; it is read into memory. An
    HDF5 file holds them, or groups of them, by these names at its root or in the group of the tier; or it is a dataset
    as the store keeps it.

    Raises
    ------
    UnsuitableData
        If there is no such file, or no such arrays in it.
    """
    if path.suffix not in SUFFIXES:
        raise UnsuitableData(f"{path} is no file of arrays; give one that ends in {', '.join(SUFFIXES)}")
    with ExitStack() as files:
        try:
            if path.suffix in (".h5", ".hdf5"):
                found = _of_hdf5(files.enter_context(h5py.File(path, "r")), path, tier, files)
            else:
                found = _of_numpy(path, files)
        except FileNotFoundError:
            raise UnsuitableData(f"there is no file {path}; correct its name") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            if isinstance(error, PipelineError):
                raise
            reason = str(error) or type(error).__name__
            raise UnsuitableData(f"{path} cannot be read as a file of arrays: {reason}; write it again") from error
        yield found


def _of_numpy(path: Path, files: ExitStack) -> dict[str, Any]:
    if path.suffix == ".npy":
        return {INPUTS: np.load(path, mmap_mode="r", allow_pickle=False)}
    file = files.enter_context(path.open("rb"))  # NumPy leaves a damaged one open
    loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {INPUTS: loaded}
    archive = files.enter_context(loaded)
    if INPUTS in archive.files:
        return {name: archive[name] for name in (INPUTS, TARGETS) if name in archive.files}
    if len(archive.files) == 1:
        return {INPUTS: archive[archive.files[0]]}
    raise UnsuitableData(
        f"{path} holds {', '.join(archive.files) or 'nothing'}; give it an array named {INPUTS} and perhaps {TARGETS}"
    )


def _of_hdf5(file: Any, path: Path, tier: str, files: ExitStack) -> dict[str, Any]:
    if dataset_store.STRUCTURE in file:
        return named_arrays(files.enter_context(dataset_store.opened(path, str(path))))
    for group in (file, file.get(tier)):
        if isinstance(group, h5py.Group) and INPUTS in group:
            return {name: _tree(group[name]) for name in (INPUTS, TARGETS) if name in group}
    raise UnsuitableData(
        f"{path} has no array {INPUTS}, at its root or in the group {tier}; it holds {', '.join(file) or 'nothing'}"
    )


def _tree(node: Any) -> Any:
    """An array, or a dict of those in a group."""
    return {name: _tree(node[name]) for name in node} if isinstance(node, h5py.Group) else node
