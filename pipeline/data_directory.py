"""Where the data file of a dataset configuration is read on this node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import PipelineError
from .node_cache import NodeCache
from .prober import companions_of
from .store.interface import Store
from .training_spec import Component


def data_directory(
    row: Mapping[str, Any], dataset: Component, dataset_dir: Path, cache: NodeCache, store: Store
) -> Path:
    """The folder that a dataset class finds the data file of its row in, with the files that belong to it: verified, in
    the node's cache. Classes with a fingerprint of their own read from `dataset_dir` directly.

    Raises
    ------
    pipeline.node_cache.DataFileChanged, PipelineError
        If the data changed since the row was inserted.
    pipeline.node_cache.DataFileMissing
        If they are nowhere.
    """
    name, sha256 = row["dataset_file_name"], row["dataset_file_sha256"]
    own = getattr(dataset.cls, "fingerprint", None)
    if own is None:
        path = cache.fetch(name, sha256, dataset_dir / name, store=store)
        for companion, digest in companions_of(dataset.cls, path).items():
            beside = str(PurePosixPath(name).with_name(companion))
            cache.fetch(beside, digest, dataset_dir / beside, store=store, companion_of=sha256)
        return path.parents[len(Path(name).parts) - 1]
    if own(dataset_dir / name, **dataset.params) != sha256:
        raise PipelineError(
            f"the data at {dataset_dir / name} changed since its configuration was inserted; insert it as "
            "a new dataset configuration"
        )
    return dataset_dir
