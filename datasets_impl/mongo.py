"""Examples from documents in MongoDB, seen through an aggregation pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datasets_impl.array_tier import ArrayTier
from datasets_impl.block_cache import BlockCache
from datasets_impl.contract import TIERS, DatasetError, check_tier
from datasets_impl.hdf5 import HDF5Dataset, Names, arguments_and_names
from datasets_impl.mongo_access import MongoAccess, borrow
from datasets_impl.mongo_index import DataIndex, Source, current, known
from datasets_impl.mongo_tier import MongoTier
from datasets_impl.mongo_view import check_pipeline
from datasets_impl.sequence_tier import SequenceTier

Pipeline = Sequence[Mapping[str, Any]]


class MongoDataset(HDF5Dataset):
    """The documents of one tier, in the order of their `_id`.

    `dataset_file_name` is `mongo:NAME` or `mongo:NAME@VERSION` for what `trainloom data import` has stored, or
    `collection:NAME` for a collection of one's own in the same database. A tier that fits `memory_budget` is read once
    and kept; of a larger one blocks are read ahead, and stay in the node's cache for the next epoch
    (`window_sampler.WindowSampler` shuffles such data block by block).

    Args:
        tuple_dict, dataset_cache_dir, tier: see `contract.PipelineDataset`.
        inputs, targets: names of the fields that are a model's inputs and targets; see `hdf5.HDF5Dataset`.
        pipeline: stages of an aggregation (https://www.mongodb.com/docs/manual/reference/operator/aggregation-pipeline/)
            through which all tiers are seen. It may not write, run code, nor draw by chance.
        tiers: the stages that choose the documents of each tier, {tier: stages}; they come before `pipeline`.
        tier_field: where `tiers` is not given, the field that names a document's tier.
        classes, float_dtype, input_dtype: see `hdf5.HDF5Dataset`.
        sequence_length: so many consecutive documents make one example, whose inputs have a first axis of that length
            and whose targets are those of its last document; a rest that makes no whole sequence is left out.
        memory_budget: bytes up to which the tier is kept in memory, and how much of a larger one is.
        cache_bytes: bytes of the node's cache for blocks; the setting `dataset_cache_bytes` by default, 0 for none.

    Raises:
        DatasetError: the dataset, its documents or a parameter is missing, damaged or unsuitable, or the data are not
            those of the configuration any more.
        ExamplesUnavailable: MongoDB cannot be reached.
    """

    run_params = frozenset({"memory_budget", "cache_bytes"})
    reads_mongodb = True

    def __init__(
        self,
        tuple_dict: Mapping[str, Any],
        dataset_cache_dir: str | Path,
        tier: str,
        *,
        inputs: Names = ("inputs",),
        targets: Names = ("targets",),
        pipeline: Pipeline = (),
        tiers: Mapping[str, Pipeline] | None = None,
        tier_field: str = "tier",
        classes: int | None = None,
        float_dtype: str = "float32",
        input_dtype: str | None = None,
        sequence_length: int | None = None,
        memory_budget: int = 1 << 30,
        cache_bytes: int | None = None,
    ) -> None:
        whole = isinstance(sequence_length, int) and not isinstance(sequence_length, bool)
        if sequence_length is not None and (not whole or sequence_length < 1):
            raise DatasetError(f"sequence_length is {sequence_length!r}: give a positive integer, or leave it out.")
        self._sequence_length = sequence_length
        self._read_settings = (pipeline, tiers, tier_field, memory_budget, cache_bytes)
        super().__init__(
            tuple_dict,
            dataset_cache_dir,
            tier,
            inputs=inputs,
            targets=targets,
            classes=classes,
            float_dtype=float_dtype,
            input_dtype=input_dtype,
            memory_budget=memory_budget,
        )

    @classmethod
    def fingerprint(
        cls,
        path: str | Path,
        *,
        inputs: Names = ("inputs",),
        targets: Names = ("targets",),
        pipeline: Pipeline = (),
        tiers: Mapping[str, Pipeline] | None = None,
        tier_field: str = "tier",
        cache_bytes: int | None = None,
        **_: Any,
    ) -> str:
        """Return the sha256 (hex) of the examples of all tiers as they are now: of the fields that are read.

        They are all read for it, and blocks kept, unless an imported dataset shows that it has not changed.

        Raises:
            DatasetError, ExamplesUnavailable: as the constructor.
        """
        access = borrow()
        fields = dict.fromkeys((*arguments_and_names(inputs, "inputs")[1], *arguments_and_names(targets, "targets")[1]))
        source = _source_of(Path(path).name, tuple(fields), pipeline, tiers, tier_field)
        return current(access, source, _cache(access, cache_bytes).put).fingerprint

    def _open(self, tuple_dict: Mapping[str, Any], dataset_cache_dir: str | Path, tier: str) -> ArrayTier:
        pipeline, tiers, tier_field, memory_budget, cache_bytes = self._read_settings
        access = borrow()
        source = _source_of(tuple_dict.get("dataset_file_name"), self._names, pipeline, tiers, tier_field)
        cache = _cache(access, cache_bytes)
        index = _recorded(access, source, tuple_dict.get("dataset_file_sha256"), cache)
        self._tier = MongoTier(access, source, check_tier(tier), index.tiers[tier], cache, held_bytes=memory_budget)
        if self._sequence_length is None:
            return self._tier
        if both := set(self._input_names) & set(self._target_names):
            raise DatasetError(
                f"{min(both)!r} is both input and target, which sequence_length tells apart: name others."
            )
        return SequenceTier(self._tier, self._sequence_length, self._input_names)

    @property
    def block_length(self) -> int:
        """The number of examples that are read together."""
        return max(1, self._tier.block_length // (self._sequence_length or 1))

    def expect(self, order: torch.Tensor) -> None:
        """Say in which order an epoch reads the examples: indices, int64 of shape (k,); they are fetched ahead."""
        if not self._in_memory:
            self._tier.expect(order.numpy() * (self._sequence_length or 1))

    def _check_labels(self, classes: int) -> None:
        bounds = self._tier.bounds(self._target_names[0]) if len(self._target_names) == 1 else None
        if bounds is None or isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
            super()._check_labels(classes)  # says what is wrong
        elif bounds[0] < 0 or bounds[1] >= classes:
            raise DatasetError(
                f"{self._source} has labels from {bounds[0]} to {bounds[1]}, but classes={classes} allows 0 to "
                f"{classes - 1}: correct the labels or the number of classes."
            )


def _source_of(
    name: Any, fields: tuple[str, ...], pipeline: Pipeline, tiers: Mapping[str, Pipeline] | None, tier_field: str
) -> Source:
    """What a row means.

    Raises:
        DatasetError: a parameter is not of the form that `MongoDataset` describes.
    """
    if not isinstance(name, str):
        raise DatasetError("the dataset configuration names no data: give it a dataset_file_name.")
    if tiers is None:
        if not isinstance(tier_field, str) or not tier_field or tier_field.startswith("$"):
            raise DatasetError(f"tier_field is {tier_field!r}: give the name of a field.")
        tiers = {tier: [{"$match": {tier_field: tier}}] for tier in TIERS}
    if not isinstance(tiers, Mapping) or set(tiers) != set(TIERS):
        raise DatasetError(f"tiers is {tiers!r}: give the stages of each of {', '.join(TIERS)}.")
    if unsuitable := [field for field in fields if "." in field or field.startswith("$")]:
        raise DatasetError(f"{unsuitable[0]!r} is no field of its own: give it a name with a $set in the pipeline.")
    for stages in (pipeline, *tiers.values()):
        check_pipeline(stages)
    return Source(name, {tier: [dict(stage) for stage in (*tiers[tier], *pipeline)] for tier in TIERS}, fields)


def _cache(access: MongoAccess, cache_bytes: int | None) -> BlockCache:
    return BlockCache(access.cache_folder, access.cache_bytes if cache_bytes is None else cache_bytes)


def _recorded(access: MongoAccess, source: Source, fingerprint: str | None, cache: BlockCache) -> DataIndex:
    """The index of the data that a configuration was inserted for; of the data as they are where it says nothing."""
    index = known(access, source)
    if index is None or (fingerprint and index.fingerprint != fingerprint):
        index = current(access, source, cache.put)
    if fingerprint and index.fingerprint != fingerprint:
        raise DatasetError(
            f"{source.name} has changed since its configuration was inserted: bring the examples back, or insert the "
            "dataset as a new configuration."
        )
    return index
