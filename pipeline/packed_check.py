"""Whether packed data are whole, and whether their source still is what was packed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets_impl import packed_manifest
from datasets_impl.array_files import open_arrays
from datasets_impl.packed_block import row_digest
from datasets_impl.packed_manifest import Manifest
from datasets_impl.packed_shard import PackedShard
from datasets_impl.packing import BLOCK_ROWS, lineage_of
from datasets_impl.packing_options import PackingOptions
from datasets_impl.packing_source import FileList, PackingError, PackingSource
from datasets_impl.shard_draft import SOURCES
from datasets_impl.tiers import TIERS

from .query_source import KIND, EmptyQuery, QuerySource

logger = logging.getLogger("trainloom")

Digests = dict[str, list[bytes]]
"""Name of a row to the sha256 of what it holds; several where rows share a name."""


@dataclass(frozen=True)
class Differences:
    """What a source holds otherwise than when it was packed: names of rows."""

    added: list[str]
    gone: list[str]
    changed: list[str]

    def __bool__(self) -> bool:
        return bool(self.added or self.gone or self.changed)

    def __str__(self) -> str:
        told = (("changed", self.changed), ("added", self.added), ("gone", self.gone))
        return ", ".join(f"{len(names)} {word} (first: {names[0]})" for word, names in told if names)


def reopen(place: Mapping[str, Any], options: PackingOptions, connection: Any = None) -> PackingSource:
    """The source that was packed, from where a lineage says that it lies, or from a manifest for a query.

    Parameters
    ----------
    connection : the session's, for a query.

    Raises
    ------
    PackingError
        If the source cannot be found again.
    """
    kind = place.get("kind")
    if kind == "files" and "list" in place and "folder" in place:
        return FileList(
            place["list"],
            place["folder"],
            images=options.images,
            sequence=options.sequence,
            delimiter=place.get("delimiter", ","),
        )
    if kind == "arrays" and place.get("paths"):
        return open_arrays(place["paths"], stacked=place.get("stacked"))
    if kind == KIND and connection is not None:
        return QuerySource(connection, place["tables"], place["restriction"], place["attributes"])
    raise PackingError("nothing says where the source of these data lies: pack it again from there.")


def place_of(manifest: Path, read: Manifest) -> dict[str, Any]:
    """Where the source of packed data lies: in a lab's tables, wherever the data are; else as their lineage says."""
    return dict(read.source) if read.source.get("kind") == KIND else dict(lineage_of(manifest).get("place", {}))


def content_sha256(source: PackingSource, options: PackingOptions) -> str:
    """The sha256 of the content of a source as a manifest has it."""
    digest = hashlib.sha256()
    for _, row in _digests(source, options):
        digest.update(row)
    return digest.hexdigest()


def query_has_changed(origin: Mapping[str, Any], connection: Any) -> bool | None:
    """Whether the query that data were packed from returns other rows or values now: all of them are read again.

    Parameters
    ----------
    origin : what a configuration of packed data keeps (`datasets_impl.packed.PackedDataset.origin`).

    Returns
    -------
    bool or None
        None where the data come from no query, or it cannot be run here and now.
    """
    recorded = origin.get("source", {})
    if recorded.get("kind") != KIND:
        return None
    try:
        source = QuerySource(connection, recorded["tables"], recorded["restriction"], recorded["attributes"])
        found = content_sha256(source, PackingOptions.from_json(origin["options"]))
    except EmptyQuery:
        return True
    except PackingError as error:
        logger.warning("whether the source of the data has changed is unknown: %s", error)
        return None
    return bool(found != recorded["sha256"])


def differences(manifest: str | os.PathLike[str], source: PackingSource) -> Differences:
    """Compare a source with what was packed of it, row by row.

    Raises
    ------
    datasets_impl.errors.DatasetError
        If the packed data are damaged, or a row cannot be read as its column asks.
    """
    path = Path(manifest)
    read = packed_manifest.read(path)
    now: Digests = {}
    for name, digest in _digests(source, PackingOptions.from_json(read.options)):
        now.setdefault(name, []).append(digest)
    skipped = {str(entry["name"]) for entry in read.skipped}
    packed = _packed_digests(path if path.is_dir() else path.parent, read)
    return Differences(
        added=[name for name in now if name not in packed and name not in skipped],
        gone=[name for name in (*packed, *skipped) if name not in now],
        changed=[name for name in now if name in packed and sorted(packed[name]) != sorted(now[name])],
    )


def _digests(source: PackingSource, options: PackingOptions) -> Iterator[tuple[str, bytes]]:
    for start in range(0, len(source), BLOCK_ROWS):
        for row in source.rows(range(start, min(start + BLOCK_ROWS, len(source)))):
            yield row.name, row_digest(options, row)


def _packed_digests(folder: Path, read: Manifest) -> Digests:
    found: Digests = {}
    for entry in read.shards:
        shard = PackedShard(folder / entry.file)
        for tier in (tier for tier in TIERS if entry.counts[tier]):
            group = f"{SOURCES}/{tier}"
            ends, data = shard[f"{group}/names/offsets"], shard[f"{group}/names/data"].tobytes()
            for number, digest in enumerate(np.asarray(shard[f"{group}/sha256"])):
                name = data[ends[number] : ends[number + 1]].decode("utf-8", "surrogateescape")
                found.setdefault(name, []).append(digest.tobytes())
    return found
