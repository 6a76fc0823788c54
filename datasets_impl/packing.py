"""Packs a source into a folder of shards with a manifest: in parallel, resumable, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from datasets_impl import packed_manifest
from datasets_impl.errors import DatasetError
from datasets_impl.packed_block import DIGEST_BYTES, BlockPacker
from datasets_impl.packed_manifest import FILE_NAME, Manifest, ShardEntry, sha256_of
from datasets_impl.packed_shard import SUFFIXES, PackedShard
from datasets_impl.packing_options import PackingOptions
from datasets_impl.packing_source import PackingError, PackingSource, SourceRow
from datasets_impl.packing_workers import packed_in_order
from datasets_impl.shard_draft import SOURCES, Shapes, ShardDraft, packed_columns
from datasets_impl.tier_split import tiers_by_name, tiers_by_share
from datasets_impl.tiers import TIERS

WORKSHOP = ".packing"  # the folder, beside the packed data, in which unfinished packings lie
STATE = "state"  # in an unfinished packing: what of it is finished, and the shard that grows
LINEAGE = "lineage.json"  # beside a manifest and no part of its identity: where the source lies, what went before
BLOCK_ROWS = 64  # rows that are packed at once
SHORT = 12  # digits of a key in the name of a folder
LIBRARIES = ("trainloom", "numpy", "h5py", "pillow")
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Progress = Callable[[int, int], None]
"""Told how many rows are packed, and of how many."""


def pack(
    source: PackingSource,
    folder: str | os.PathLike[str],
    name: str,
    options: PackingOptions,
    *,
    processes: int = 1,
    progress: Progress | None = None,
    previous: str | os.PathLike[str] | None = None,
) -> Path:
    """Pack a source and return the path of the manifest, `<folder>/<name>-<key>/manifest.json`.

    The key is made of options and source content: other options make another folder, and what is there stays as it is.
    The folder appears when it is whole. What an interrupted packing finished is verified and kept by the next one with
    the same options; two that are started at once wait for each other.

    Args:
        source: the examples.
        folder: where packed data lie, usually the `dataset_dir`; it must exist.
        name: of the data: letters, digits and `_.+-`.
        processes: how many pack at once; with more than one, a script needs `if __name__ == "__main__":`.
        progress: called often.
        previous: the manifest of which this is a new version; kept in `lineage.json`.

    Raises:
        PackingError: the source or an example does not fit the options, or changed meanwhile; a tier is empty; the
            folder cannot be written or is full.
    """
    folder = Path(folder)
    if not _NAME.fullmatch(name):
        raise PackingError(f"the name {name!r} of packed data is unfit: use letters, digits and _.+- in it.")
    for column in (*(column.name for column in options.columns), *options.split.columns):
        source.check_column(column)
    tiers = _tiers(source, options)
    if not folder.is_dir():
        raise PackingError(f"there is no folder {folder}: make it, or name another.")
    try:
        workshop = folder / WORKSHOP
        workshop.mkdir(exist_ok=True)
        label = f"{name}-{options.digest()[:SHORT]}"
        with FileLock(workshop / f"{label}.lock", mode=0o666):
            packing = _Packing(source, folder, workshop / label, name, options, tiers, previous)
            return packing.run(processes, progress or (lambda done, total: None))
    except OSError as error:
        full = error.errno in _FULL or any(f"errno = {number}" in str(error) for number in _FULL)
        reason = f"the disk is full or a limit is reached ({error.strerror or error})" if full else str(error)
        raise PackingError(f"{folder} cannot be written: {reason}; free space or choose another folder.") from error


def _tiers(source: PackingSource, options: PackingOptions) -> dict[str, np.ndarray]:
    """Tier to the numbers of its rows."""
    split = options.split
    if split.column:
        tiers = tiers_by_name(source.column(split.column), split.column)
    else:
        groups = source.column(split.stratify) if split.stratify else np.zeros(len(source), np.int8)
        tiers = tiers_by_share(groups, split.shares, split.seed)
    within = f", each value of {split.stratify} divided by itself" if split.stratify and not split.column else ""
    if empty := [tier for tier in TIERS if not len(tiers[tier])]:
        raise PackingError(
            f"the tier {empty[0]} of {source} would be empty ({len(source)} rows{within}): "
            "change the split, or give more rows."
        )
    return tiers


class _Packing:
    """One packing, whose lock is held."""

    def __init__(
        self,
        source: PackingSource,
        folder: Path,
        work: Path,
        name: str,
        options: PackingOptions,
        tiers: Mapping[str, np.ndarray],
        previous: str | os.PathLike[str] | None,
    ) -> None:
        self._source = source
        self._folder = folder
        self._work = work
        self._state = work / STATE
        self._name = name
        self._options = options
        self._tiers = tiers
        self._previous = previous
        self._stamp = hashlib.sha256(f"{options.digest()} {source.stamp()}".encode()).hexdigest()
        self._shapes: Shapes = {}

    def run(self, processes: int, progress: Progress) -> Path:
        """Pack what is not packed yet, and return the path of the manifest."""
        found = self._packed_before()
        if found is not None:
            return found
        self._prepare()
        finished = self._finished_shards()
        done = sum(sum(entry["counts"].values()) + len(entry["skipped"]) for entry in finished.values())
        progress(done, len(self._source))
        for number in range(self._options.shards):
            shapes = finished.get(number, {}).get("shapes", {})
            self._shapes.update({name: (tuple(shape), first) for name, (shape, first) in shapes.items()})
        missing = [number for number in range(self._options.shards) if number not in finished]
        for number, entry in self._pack_shards(missing, processes, done, progress):
            finished[number] = entry
        self._source.verify()
        return self._publish([finished[number] for number in range(self._options.shards)])

    def _packed_before(self) -> Path | None:
        """The manifest of a packing of the same source, as far as a look at it tells, with the same options."""
        for lineage in sorted(self._folder.glob(f"{self._name}-*/{LINEAGE}")):
            with suppress(OSError, ValueError, KeyError, TypeError):  # of another release, or just removed
                if json.loads(lineage.read_text(encoding="utf-8"))["stamp"] == self._stamp:
                    path = lineage.with_name(FILE_NAME)
                    manifest = packed_manifest.read(path)
                    if all((path.parent / shard.file).stat().st_size == shard.size for shard in manifest.shards):
                        return path
        return None

    def _prepare(self) -> None:
        """A folder to work in that belongs to just this source and these options."""
        plan = self._state / "plan.json"
        try:
            kept = json.loads(plan.read_text(encoding="utf-8"))["stamp"] == self._stamp
        except (OSError, ValueError, KeyError, TypeError):
            kept = False
        if not kept:
            shutil.rmtree(self._work, ignore_errors=True)
            self._state.mkdir(parents=True)
            _write_whole(plan, json.dumps({"stamp": self._stamp}))

    def _shard_name(self, number: int) -> str:
        return f"shard-{number:05d}{SUFFIXES[self._options.storage]}"

    def _entry(self, number: int) -> Path:
        return self._state / f"{number}.json"

    def _finished_shards(self) -> dict[int, dict[str, Any]]:
        """Number to what is known of each shard that an earlier try finished and that is still whole."""
        finished = {}
        for number in range(self._options.shards):
            path = self._work / self._shard_name(number)
            with suppress(OSError, ValueError, KeyError, TypeError):  # not there, or not whole: it is made again
                entry = json.loads(self._entry(number).read_text(encoding="utf-8"))
                if sha256_of(path) == entry["sha256"]:
                    finished[number] = entry
        return finished

    def _pack_shards(
        self, numbers: list[int], processes: int, done: int, progress: Progress
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each shard's number and what is known of it, when it is written."""
        blocks = packed_in_order(BlockPacker(self._options), self._tasks(numbers), processes)
        block = next(blocks, None)
        try:
            for number in numbers:
                draft = ShardDraft(self._state / "draft", self._options, self._shapes)
                try:
                    while block is not None and block.shard == number:
                        draft.add(block)
                        done += len(block.numbers) + len(block.skipped)
                        progress(done, len(self._source))
                        block = next(blocks, None)
                    yield number, self._finish(number, draft)
                finally:
                    draft.close()
        finally:
            blocks.close()

    def _tasks(self, numbers: list[int]) -> Iterator[tuple[int, str, list[SourceRow]]]:
        """The rows of the shards, tier after tier, a block at a time."""
        for number in numbers:
            for tier in TIERS:
                part = np.array_split(self._tiers[tier], self._options.shards)[number]
                for start in range(0, len(part), BLOCK_ROWS):
                    yield number, tier, self._source.rows(part[start : start + BLOCK_ROWS].tolist())

    def _finish(self, number: int, draft: ShardDraft) -> dict[str, Any]:
        path = self._work / self._shard_name(number)
        about = {"name": self._name, "shard": number, "shards": self._options.shards, "counts": draft.counts}
        draft.finish(path, {**about, "options": self._options.as_json(), "source": self._source.describe()})
        entry = {
            "sha256": sha256_of(path),
            "size": path.stat().st_size,
            "counts": draft.counts,
            "skipped": draft.skipped,
            "shapes": self._shapes,
        }
        _write_whole(self._entry(number), json.dumps(entry))
        return entry

    def _publish(self, entries: list[dict[str, Any]]) -> Path:
        """Write the manifest, and let the folder appear under its name."""
        manifest = self._manifest(entries)
        target = self._folder / f"{self._name}-{manifest.key[:SHORT]}"
        _write_whole(self._work / LINEAGE, json.dumps(self._lineage(), indent=1, sort_keys=True) + "\n")
        _write_whole(self._work / FILE_NAME, manifest.text())
        if _is_whole(target):
            # The same content was packed before, from files of another time or place: that one stays.
            lineage = {**lineage_of(target), **{name: self._lineage()[name] for name in ("stamp", "place")}}
            _write_whole(target / LINEAGE, json.dumps(lineage, indent=1, sort_keys=True) + "\n")
            shutil.rmtree(self._work)
        else:
            if target.exists():
                damaged = self._work.with_name(f"{self._work.name}.damaged")
                shutil.rmtree(damaged, ignore_errors=True)
                os.rename(target, damaged)
                shutil.rmtree(damaged)
            os.rename(self._work, target)
            shutil.rmtree(target / STATE)
        _sync(self._folder)
        return target / FILE_NAME

    def _manifest(self, entries: list[dict[str, Any]]) -> Manifest:
        counts = {tier: sum(entry["counts"][tier] for entry in entries) for tier in TIERS}
        if empty := [tier for tier in TIERS if not counts[tier]]:
            raise PackingError(
                f"no example of the tier {empty[0]} of {self._source} could be read: correct the files, or the split."
            )
        skipped = sorted((row for entry in entries for row in entry["skipped"]), key=lambda row: int(row["row"]))
        content = self._content_digest(entries, skipped)
        options = self._options.as_json()
        key = hashlib.sha256(json.dumps([options, content], sort_keys=True).encode()).hexdigest()
        return Manifest(
            name=self._name,
            key=key,
            storage=self._options.storage,
            encoder=self._options.encoder if self._options.images else "",
            columns=packed_columns(self._options, self._shapes),
            counts=counts,
            shards=tuple(
                ShardEntry(self._shard_name(number), entry["sha256"], entry["size"], entry["counts"])
                for number, entry in enumerate(entries)
            ),
            options=options,
            source={**self._source.describe(), "rows": len(self._source), "sha256": content},
            skipped=[{name: row[name] for name in ("row", "name", "reason")} for row in skipped],
            made_with={library: metadata.version(library) for library in LIBRARIES},
        )

    def _content_digest(self, entries: list[dict[str, Any]], skipped: list[dict[str, Any]]) -> str:
        """The sha256 of the digests of all rows in the order of the source: it does not depend on the split."""
        digests = np.zeros((len(self._source), DIGEST_BYTES), np.uint8)
        for row in skipped:
            digests[row["row"]] = np.frombuffer(bytes.fromhex(row["sha256"]), np.uint8)
        for number, entry in enumerate(entries):
            shard = PackedShard(self._work / self._shard_name(number))
            for tier in (tier for tier in TIERS if entry["counts"][tier]):
                digests[shard[f"{SOURCES}/{tier}/numbers"]] = shard[f"{SOURCES}/{tier}/sha256"]
        return hashlib.sha256(digests.data).hexdigest()

    def _lineage(self) -> dict[str, Any]:
        lineage: dict[str, Any] = {"stamp": self._stamp, "place": self._source.place(), "version": 1}
        if self._previous is not None:
            earlier = lineage_of(self._previous)
            lineage["previous"] = packed_manifest.read(self._previous).key
            lineage["version"] = int(earlier.get("version", 1)) + 1
        return lineage


def _is_whole(target: Path) -> bool:
    try:
        return not packed_manifest.damaged_shards(target, packed_manifest.read(target))
    except DatasetError:
        return False


def lineage_of(manifest: str | os.PathLike[str]) -> dict[str, Any]:
    """What is kept beside a manifest: `place` of its source, its `version`, and the key of the `previous` one; empty
    where it is not there, as on a node that fetched the data."""
    path = Path(manifest)
    folder = path if path.is_dir() else path.parent
    try:
        return dict(json.loads((folder / LINEAGE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.partial")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
