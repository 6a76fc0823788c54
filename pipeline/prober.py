"""What a dataset says of itself at insertion: content, shapes, counts."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.binding import Directories, Probe
from schemas.dataset_config import TIERS
from schemas.errors import InvalidRow, InvalidValue
from schemas.hashing import plain

from .file_digest import FileDigests
from .resolver import ClassResolver
from .store.interface import Store

logger = logging.getLogger("trainloom")

_SHA256 = re.compile(r"[0-9a-f]{64}")


class DatasetProber:
    """Opens the tiers of a dataset once, in the process that inserts it.

    Parameters
    ----------
    dataset_dir : where data files lie unless a table was given another folder.
    store : receives the data files if `mirror` is set, so that every node can fetch them.
    """

    def __init__(
        self, resolver: ClassResolver, digests: FileDigests, store: Store, dataset_dir: Path, *, mirror: bool
    ) -> None:
        self._resolver = resolver
        self._digests = digests
        self._store = store
        self._dataset_dir = dataset_dir
        self._mirror = mirror

    def fingerprint(self, row: Mapping[str, Any], directories: Directories) -> str:
        """sha256 of the dataset's content: its class's own `fingerprint`, else that of the file."""
        path = self._path(row, directories)
        cls = self._class(row)
        own = getattr(cls, "fingerprint", None)
        if own is not None:
            digest = own(path, **row["dataset_class_params"])
            if not isinstance(digest, str) or len(digest) != 64:
                raise InvalidRow(
                    f"{cls.__qualname__}.fingerprint must return the 64 hexadecimal digits of a sha256, not {digest!r}"
                )
            return digest
        if not path.is_file():
            kind = "is a folder, and its dataset class has no fingerprint method" if path.is_dir() else "does not exist"
            raise InvalidRow(f"the data file {path} {kind}; correct dataset_file_name or dataset_dir")
        sha256 = self._digests.sha256_of(path)
        for name, digest in companions_of(cls, path).items():
            self._check_companion(path.with_name(name), digest, path)
        return sha256

    def _check_companion(self, companion: Path, digest: str, path: Path) -> None:
        if not companion.is_file():
            raise InvalidRow(f"{companion}, which belongs to the data file {path}, does not exist; copy it there")
        if self._digests.sha256_of(companion) != digest:
            raise InvalidRow(f"{companion} has other content than the data file {path} says; restore both")

    def probe(self, row: Mapping[str, Any], directories: Directories) -> Probe:
        """Build every tier and ask it for its shapes; afterwards the data file is in the store."""
        path = self._path(row, directories)
        tiers = {tier: self._tier(row, tier, path) for tier in TIERS}
        shapes = {tier: self._shapes(tier, dataset, row) for tier, dataset in tiers.items()}
        for tier in TIERS:
            if shapes[tier] != shapes["validation"]:
                raise InvalidRow(
                    f"{row['dataset_file_name']} has examples of shapes {shapes[tier]} in the tier {tier} but "
                    f"{shapes['validation']} in validation; "
                    "all tiers must have the same shapes"
                )
        additional = self._additional(tiers["validation"])
        counts = {tier: self._count(row, tier, dataset) for tier, dataset in tiers.items()}
        companions = companions_of(self._class(row), path)
        if self._mirror and path.is_file() and not hasattr(self._class(row), "fingerprint"):
            self._store.put(path, kind="dataset")
            for name in companions:
                self._store.put(path.with_name(name), kind="dataset")
        return Probe(*shapes["validation"], additional, counts, companions, self._origin(row, path))

    def _origin(self, row: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Where the data come from, as far as their class can tell."""
        told = getattr(self._class(row), "origin", None)
        return {} if told is None else dict(plain(told(path), f"{self._class(row).__qualname__}.origin()"))

    def _path(self, row: Mapping[str, Any], directories: Directories) -> Path:
        folder = Path(directories.dataset_dir) if directories.dataset_dir is not None else self._dataset_dir
        path: Path = folder / row["dataset_file_name"]
        if ".." in Path(row["dataset_file_name"]).parts or Path(row["dataset_file_name"]).is_absolute():
            raise InvalidRow(
                f"dataset_file_name {row['dataset_file_name']!r} must lie below dataset_dir; give a relative name"
            )
        return path

    def _class(self, row: Mapping[str, Any]) -> Any:
        return self._resolver.resolve(row["dataset_class_module_name"], row["dataset_class_name"], "dataset")

    def _tier(self, row: Mapping[str, Any], tier: str, path: Path) -> Any:
        cls = self._class(row)
        params = self._resolver.with_functions(cls, row["dataset_class_params"])
        try:
            dataset = cls(
                dict(row),
                str(path.parents[len(Path(row["dataset_file_name"]).parts) - 1]),
                tier,
                **params,
            )
            empty = len(dataset) == 0
        except Exception as error:
            raise InvalidRow(f"{cls.__qualname__} cannot open the tier {tier} of {path}: {error}") from error
        if empty:
            raise InvalidRow(f"the tier {tier} of {path} is empty; every tier needs at least one example")
        return dataset

    @staticmethod
    def _shapes(tier: str, dataset: Any, row: Mapping[str, Any]) -> tuple[Any, Any]:
        try:
            example = dataset[0]
        except Exception as error:
            raise InvalidRow(
                f"the first example of the tier {tier} of {row['dataset_file_name']} cannot be read: {error}"
            ) from error
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise InvalidRow(
                f"{type(dataset).__qualname__}[0] must be a pair (input, target), not {type(example).__name__}"
            )
        own = getattr(dataset, "get_output_shape", None)
        output = list(own()) if own is not None and own() is not None else shape_of(example[1])
        return shape_of(example[0]), output

    @staticmethod
    def _additional(dataset: Any) -> dict[str, Any]:
        label = f"{type(dataset).__qualname__}.get_additional_model_params()"
        try:
            params = plain(dataset.get_additional_model_params(), label)
        except InvalidValue:
            raise
        except Exception as error:
            raise InvalidRow(f"{label} fails: {type(error).__name__}: {error}") from error
        if not isinstance(params, dict):
            raise InvalidRow(f"{label} must return a dict, not {type(params).__name__}")
        return params

    def _count(self, row: Mapping[str, Any], tier: str, dataset: Any) -> int:
        """Examples an epoch draws: what the sampler says, else all."""
        name = row[f"{tier}_sampler_class_name"]
        if not name:
            return len(dataset)
        cls = self._resolver.resolve(row[f"{tier}_sampler_module_name"], name, "sampler")
        try:
            return len(cls(dataset, **row[f"{tier}_sampler_class_params"]))
        except Exception as error:
            raise InvalidRow(f"{tier}_sampler_class_params: {cls.__qualname__} cannot be built: {error}") from error


def companions_of(cls: Any, path: Path) -> dict[str, str]:
    """The files beside a data file that belong to it, name to sha256; see `datasets_impl.contract`.

    Raises
    ------
    InvalidRow
        If the class names a file elsewhere, or gives something that is no sha256.
    """
    told = getattr(cls, "companion_files", None)
    if told is None:
        return {}
    companions = dict(told(path))
    for name, digest in companions.items():
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
            raise InvalidRow(f"{cls.__qualname__}.companion_files names {name!r}, which does not lie beside {path}")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise InvalidRow(f"{cls.__qualname__}.companion_files gives {digest!r} for {name}, which is no sha256")
    return companions


def shape_of(value: Any) -> Any:
    """The shape of an example: a list of int, [] for numbers; lists, tuples and dicts of values give lists and
    dicts of shapes."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return [int(size) for size in shape]
    if isinstance(value, Mapping):
        return {str(name): shape_of(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [shape_of(item) for item in value]
    return []
