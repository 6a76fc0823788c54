"""The manifest of packed data: what was packed how, in which files, with which checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets_impl.errors import DatasetError
from datasets_impl.packed_column import PackedColumn
from datasets_impl.tiers import TIERS

FORMAT = "trainloom packed data"
VERSION = 1  # of the format
FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class ShardEntry:
    """A file of packed data.

    Attributes:
        file: its name; it lies beside the manifest.
        sha256: of its content, in lower-case hex.
        size: in bytes.
        counts: tier to number of examples.
    """

    file: str
    sha256: str
    size: int
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Manifest:
    """Everything a reader has to know, and everything a person wants to know, of packed data.

    Two packings of the same source with the same options by the same libraries have the same manifest, byte for byte:
    its sha256 is the identity of the data.

    Attributes:
        name: of the data; the folder is called `<name>-<first digits of the key>`.
        key: sha256 of options and source content.
        storage: `hdf5` or `npz`.
        encoder: of the images: jpeg, png, raw or source; empty where there are none.
        columns: inputs and targets.
        counts: tier to number of examples, of all shards together.
        shards: the files, in the order of the examples.
        options: what was asked for (`packing_options.PackingOptions`).
        source: where the data come from: `kind`, `rows`, `sha256` of the content, and what else the kind says.
        skipped: examples that were left out: `row`, `name` and `reason` of each.
        made_with: versions of the libraries.
    """

    name: str
    key: str
    storage: str
    encoder: str
    columns: tuple[PackedColumn, ...]
    counts: Mapping[str, int]
    shards: tuple[ShardEntry, ...]
    options: Mapping[str, Any]
    source: Mapping[str, Any]
    skipped: Sequence[Mapping[str, Any]] = ()
    made_with: Mapping[str, str] = field(default_factory=dict)

    def columns_of(self, role: str) -> tuple[PackedColumn, ...]:
        """The columns of a role, in their order."""
        return tuple(column for column in self.columns if column.role == role)

    def column(self, name: str) -> PackedColumn:
        """The column of that name.

        Raises:
            DatasetError: there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        names = ", ".join(column.name for column in self.columns)
        raise DatasetError(
            f"the packed data {self.name} have no column {name!r} (they have {names}): name one of these."
        )

    def companions(self) -> dict[str, str]:
        """{file beside the manifest: its sha256}."""
        return {shard.file: shard.sha256 for shard in self.shards}

    def text(self) -> str:
        """The manifest as it is written: JSON with sorted keys."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "key": self.key,
            "storage": self.storage,
            "encoder": self.encoder,
            "columns": [column.as_json() for column in self.columns],
            "counts": dict(self.counts),
            "shards": [
                {"file": shard.file, "sha256": shard.sha256, "size": shard.size, "counts": dict(shard.counts)}
                for shard in self.shards
            ],
            "options": dict(self.options),
            "source": dict(self.source),
            "skipped": [dict(entry) for entry in self.skipped],
            "made_with": dict(self.made_with),
        }
        return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: str | os.PathLike[str]) -> Manifest:
    """Read a manifest; its folder, which holds `manifest.json`, may be given instead.

    Raises:
        DatasetError: there is none, or it is damaged or of a later release.
    """
    found = Path(path)
    if found.is_dir():
        found = found / FILE_NAME
    try:
        content = json.loads(found.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
    except FileNotFoundError as error:
        raise DatasetError(f"the manifest {found} does not exist: check its name and folder.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{found} is no manifest of packed data ({error}): name the one that was packed.") from error
    if content.get("version") != VERSION:
        raise DatasetError(
            f"{found} has version {content.get('version')!r} of the format and this release reads {VERSION}: "
            "use the release that packed it, or pack the data again."
        )
    try:
        return _manifest(content)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"the manifest {found} is damaged ({error!r}): copy or pack it again.") from error


def _manifest(content: Mapping[str, Any]) -> Manifest:
    shards = tuple(
        ShardEntry(_plain_name(entry["file"]), entry["sha256"], int(entry["size"]), _counts(entry["counts"]))
        for entry in content["shards"]
    )
    return Manifest(
        name=content["name"],
        key=content["key"],
        storage=content["storage"],
        encoder=content["encoder"],
        columns=tuple(map(PackedColumn.from_json, content["columns"])),
        counts=_counts(content["counts"]),
        shards=shards,
        options=content["options"],
        source=content["source"],
        skipped=content["skipped"],
        made_with=content["made_with"],
    )


def _counts(entry: Mapping[str, Any]) -> dict[str, int]:
    return {tier: int(entry[tier]) for tier in TIERS}


def _plain_name(name: str) -> str:
    """A manifest comes from elsewhere: it may name only files beside it."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"the shard {name!r} does not lie beside the manifest")
    return name


def damaged_shards(path: str | os.PathLike[str], manifest: Manifest) -> list[str]:
    """Sentences that say which shards beside a manifest are missing or have another content; none if all is well."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    problems = []
    for shard in manifest.shards:
        file = folder / shard.file
        if not file.is_file():
            problems.append(f"the shard {file} is missing: copy it, or pack the data again.")
        elif sha256_of(file) != shard.sha256:
            problems.append(f"the shard {file} has another content than was packed: copy it, or pack the data again.")
    return problems


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in lower-case hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
