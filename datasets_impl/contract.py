"""What the pipeline expects of a dataset class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from datasets_impl.errors import DatasetError, ExampleIndexError
from datasets_impl.tiers import TIERS, check_tier

__all__ = [
    "TIERS",
    "BatchShare",
    "DatasetError",
    "ExampleIndexError",
    "PipelineDataset",
    "check_tier",
    "file_path",
    "share_of",
]


class PipelineDataset(Dataset[Any], ABC):
    """The contract of a dataset, as a base class; a dataset of one's own need not inherit from it.

    A dataset is built once per tier as `cls(tuple_dict, dataset_cache_dir, tier, **dataset_class_params)`. `tuple_dict`
    is the row of the dataset configuration, the data file is `file_path(tuple_dict, dataset_cache_dir)` and `tier` is
    one of `TIERS`. `dataset[i]` is a pair (input, target); each is a tensor, or a tuple or dict of tensors.

    Optional, looked for by name:

    - `__getitems__(indices)` with `collate_fn` (a static method, the identity): reads a whole batch in one call.
      `indices` is a list of integers, or a 1-D int64 tensor where the class sets `takes_index_tensors = True`.
    - `draws_randomness = False`: reading never draws random numbers. Otherwise loaders seed the global generators of
      torch (CPU), NumPy (legacy) and Python from (seed, epoch, index) before each example (for `__getitems__`: from
      seed, epoch and all its indices before each batch), so that augmentation gives the same values whatever the
      number of loader processes. Generators that a dataset makes for itself are its own business.
    - `draws_per_example`: with `__getitems__`, how many random numbers an example takes; above 0 the method is called
      as `__getitems__(indices, draws)`, `draws` being float64 of shape (k, draws_per_example), uniform in [0, 1) and
      dependent on seed, epoch and each index alone. This takes the place of `draws_randomness`.
    - `drop_last = False`: training keeps a short last batch.
    - `preload()`: called once in the parent before loader processes start, for what they should share.
    - `get_output_shape()`: the shape of a model's output, one example, where the target does not tell it.
    - `companion_files(path)`, a classmethod: the files that belong to the data file at `path`, as {name beside it:
      sha256 in lower-case hex}. They are verified at insertion, mirrored with it, and lie beside it in
      `dataset_cache_dir`; the data file must hold their digests, so that its own covers them.
    - `origin(path)`, a classmethod: where the data come from, a JSON object that is kept with the configuration.
    - `reads_mongodb = True`: the dataset uses what `mongo_access` lends; the processes of a training on several devices
      are lent it too.
    - `function_params`, a frozenset of parameters that name functions as `my_package.my_module:my_function`: the class
      is built with the functions themselves, of allow-listed packages.
    - `get_labels()`: the class of every example, an int64 tensor of shape (len,), for class-balanced sampling.
    """

    takes_index_tensors = False
    draws_randomness = True

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples of this tier."""

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return one example as (input, target), without a batch axis."""

    def get_additional_model_params(self) -> dict[str, Any]:
        """Return further keyword arguments for the model's constructor, none by default."""
        return {}

    def get_output_shape(self) -> tuple[int, ...] | None:
        """Return the shape of a model's output for one example; None means that of the target."""
        return None


class BatchShare(NamedTuple):
    """What a loader yields whose batches are split between the ranks of a training.

    Attributes:
        batch: this rank's examples, as a batch; where it has none, one of another's, which does not count.
        size: the number of examples that count.
        total: that of all ranks together.
    """

    batch: Any
    size: int
    total: int


def share_of(total: int, rank: int, ranks: int) -> tuple[int, int]:
    """Where one rank's consecutive part of so many examples begins and ends; parts differ by one example at most, and
    the first ones are the longer."""
    least, longer = divmod(total, ranks)
    start = rank * least + min(rank, longer)
    return start, start + least + (rank < longer)


def file_path(tuple_dict: Mapping[str, Any], dataset_cache_dir: str | Path) -> Path:
    """Return where the data file of a dataset configuration lies.

    Raises:
        DatasetError: the row has no `dataset_file_name`.
    """
    name = tuple_dict.get("dataset_file_name")
    if not isinstance(name, str) or not name:
        raise DatasetError("the dataset configuration names no data file: give it a dataset_file_name.")
    return Path(dataset_cache_dir) / name
