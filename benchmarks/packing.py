"""Photographs packed per second by one process per core, beside one process alone."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.comparison import Bar, Check, Comparison, Program, interleave
from datasets_impl.packing import pack
from datasets_impl.packing_options import ColumnOptions, PackingOptions
from datasets_impl.packing_source import FileList

PHOTOGRAPHS = 3_000
SIDES = (640, 480)  # pixels
COLUMNS = (ColumnOptions("image", "input", "uint8", image=True), ColumnOptions("label", "target", "int64"))
SHARE = 0.8  # of the rate of one process, times the cores


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare packing on all cores with packing on one."""
    cores = len(os.sched_getaffinity(0))
    options = PackingOptions(columns=COLUMNS, height=224, width=224)
    with tempfile.TemporaryDirectory(prefix="trainloom-packing-") as name:
        folder = Path(name)
        listed = _photographs(folder)
        programs: dict[str, Program] = {
            "all": lambda _: _rate(listed, folder / "packed", options, cores),
            "one": lambda _: _rate(listed, folder / "packed", options, 1),
        }
        rates = interleave(programs, pairs)
    return [
        Comparison(
            f"{PHOTOGRAPHS:,} photographs to 224 x 224 JPEG, {cores} processes / one",
            rates["all"],
            rates["one"],
            "photographs/s",
            Bar(SHARE * cores, at_most=False) if cores > 1 else None,
        )
    ]


def _photographs(folder: Path) -> Path:
    """Smooth random images, which compress as photographs do, and the list that names them."""
    chance = np.random.RandomState(0)
    for number in range(PHOTOGRAPHS // 10):
        small = Image.fromarray(chance.randint(0, 256, (48, 64, 3), np.uint8))
        small.resize(SIDES, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    listed = folder / "photographs.csv"
    with open(listed, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "label"))
        writer.writerows((f"{number % (PHOTOGRAPHS // 10)}.jpg", number % 10) for number in range(PHOTOGRAPHS))
    return listed


def _rate(listed: Path, target: Path, options: PackingOptions, processes: int) -> float:
    target.mkdir()
    started = time.perf_counter()
    pack(FileList(listed), target, "photographs", options, processes=processes)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return PHOTOGRAPHS / seconds
