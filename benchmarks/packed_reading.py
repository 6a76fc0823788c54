"""Random batches of packed data, beside single examples of the same HDF5 file and beside the selection of h5py."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.comparison import Bar, Check, Comparison, Program, interleave
from datasets_impl.loaders import build_loader
from datasets_impl.packed import PackedDataset
from datasets_impl.packing import pack
from datasets_impl.packing_options import ColumnOptions, PackingOptions
from datasets_impl.packing_source import FileList
from datasets_impl.tier_split import TierSplit

COUNT, SIZE, BATCH = 4_000, 32, 128
"""Images of SIZE x SIZE x 3, and how many are read together."""


class SingleExamples(Dataset[Any]):
    """The training tier as most people read it."""

    def __init__(self, path: Path) -> None:
        self.tier = h5py.File(path)["train"]

    def __len__(self) -> int:
        return len(self.tier["label"])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.tier["image"][index].astype(np.float32)), int(self.tier["label"][index])


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare examples per second of whole epochs in random order; all are read as float32."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = _packed(Path(folder))
        dataset = PackedDataset({"dataset_file_name": str(manifest.relative_to(folder))}, folder, "train")
        ours = build_loader(dataset, tier="train", batch_size=BATCH, seed=0)
        single = DataLoader(SingleExamples(manifest.parent / "shard-00000.h5"), BATCH, shuffle=True, drop_last=True)
        tier = h5py.File(manifest.parent / "shard-00000.h5")["train"]
        count = len(dataset)
        programs: dict[str, Program] = {
            "ours": lambda _: _rate(lambda: sum(len(targets) for _, targets in ours)),
            "single": lambda _: _rate(lambda: sum(len(targets) for _, targets in single)),
            "h5py": lambda number: _rate(lambda: _selected(tier, np.random.default_rng(number).permutation(count))),
        }
        rates = interleave(programs, pairs)
    name = f"random batches of {BATCH} packed images of {SIZE} x {SIZE} x 3"
    bars = {"a DataLoader over single examples": ("single", 5), "h5py's selection of the same rows": ("h5py", 0.8)}
    return [
        Comparison(f"{name} / {what}", rates["ours"], rates[key], "examples/s", Bar(limit, at_most=False))
        for what, (key, limit) in bars.items()
    ]


def _packed(folder: Path) -> Path:
    from PIL import Image

    chance = np.random.default_rng(0)
    (folder / "images").mkdir()
    lines = ["image,label"]
    for number in range(COUNT):
        Image.fromarray(chance.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(folder / "images" / f"{number}.png")
        lines.append(f"{number}.png,{number % 10}")
    (folder / "list.csv").write_text("\n".join(lines))
    options = PackingOptions(
        columns=(ColumnOptions("image", "input", "uint8", image=True), ColumnOptions("label", "target", "int64")),
        split=TierSplit(shares=(0.8, 0.1, 0.1)),
        encoder="raw",
    )
    return pack(FileList(folder / "list.csv", folder / "images"), folder, "images", options)


def _selected(tier: Any, order: np.ndarray) -> int:
    """Batches by h5py alone, which selects in ascending order; how many examples there were."""
    whole = len(order) - len(order) % BATCH
    for start in range(0, whole, BATCH):
        rows = np.sort(order[start : start + BATCH])
        torch.from_numpy(tier["image"][rows].astype(np.float32))
        torch.from_numpy(tier["label"][rows])
    return whole


def _rate(work: Callable[[], int]) -> float:
    started = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - started)
