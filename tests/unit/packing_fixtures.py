"""Folders of images to pack, and what is read back."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets_impl.packed_tier import PackedTier
from datasets_impl.packing_options import ColumnOptions, PackingOptions
from datasets_impl.packing_source import FileList
from datasets_impl.tier_split import TierSplit

IMAGE = ColumnOptions("image", "input", "uint8", image=True)
LABEL = ColumnOptions("label", "target", "int64")
SPLIT = TierSplit(shares=(0.5, 0.25, 0.25))


def pixels(number: int, height: int = 5, width: int = 4) -> np.ndarray:
    """The pixels of image `number`: uint8 (height, width, 3)."""
    return np.random.RandomState(number).randint(0, 256, (height, width, 3), np.uint8)


def write_images(folder: Path, count: int, size: Callable[[int], tuple[int, int]] = lambda _: (5, 4)) -> Path:
    """Write images 0.png … and `list.csv` with the columns image and label (number modulo 3); returns the list."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(pixels(number, *size(number))).save(folder / f"{number}.png")
    return write_list(folder / "list.csv", [("image", "label"), *((f"{n}.png", n % 3) for n in range(count))])


def write_list(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Write a CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def options(**changes: Any) -> PackingOptions:
    """Options for raw images of three channels and a label."""
    return PackingOptions(**{"columns": (IMAGE, LABEL), "split": SPLIT, "encoder": "raw", **changes})


def source(path: Path, **changes: Any) -> FileList:
    """The list as a source."""
    return FileList(path, **changes)


def read_all(manifest: Path, column: str) -> dict[str, Any]:
    """Name of the first file of each row to the value of a column, of all tiers."""
    found: dict[str, Any] = {}
    for tier in ("train", "validation", "test"):
        opened = PackedTier(manifest, tier)
        names = [name for shard in opened.shards for name in source_names(shard, tier)]
        values = opened.read(opened.manifest.column(column), np.arange(opened.length))
        found.update(zip(names, values, strict=True))
    return found


def source_names(shard: Any, tier: str) -> list[str]:
    """The names of the rows that a shard keeps."""
    data, ends = (shard[f"sources/{tier}/names/{part}"] for part in ("data", "offsets"))
    return [data[a:b].tobytes().decode() for a, b in pairwise(ends)]
