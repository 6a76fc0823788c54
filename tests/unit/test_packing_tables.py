"""Packing tables of numbers: CSV, NumPy, pandas, Arrow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datasets_impl import packed_manifest
from datasets_impl.array_files import open_arrays, table_of
from datasets_impl.column_choice import choose_columns
from datasets_impl.packed import PackedTier
from datasets_impl.packing import lineage_of, pack
from datasets_impl.packing_options import PackingOptions
from datasets_impl.packing_source import ArrayTable
from datasets_impl.tier_split import TierSplit
from pipeline.packed_check import differences, reopen

ROWS = 12
FRAME = pd.DataFrame({"a": np.arange(ROWS), "b": np.arange(ROWS) / 4, "y": np.arange(ROWS) % 3})


def packed(table: ArrayTable, folder: Path, **choice: Any) -> Path:
    split = TierSplit(shares=(0.5, 0.25, 0.25))
    return pack(table, folder, "numbers", PackingOptions(columns=choose_columns(table, **choice), split=split))


def column(manifest: Path, name: str) -> np.ndarray:
    """The values of a column in the order of the source."""
    values, numbers = [], []
    for tier in ("train", "validation", "test"):
        opened = PackedTier(manifest, tier)
        values.extend(opened.read(opened.manifest.column(name), np.arange(opened.length)))
        numbers.extend(number for shard in opened.shards for number in shard[f"sources/{tier}/numbers"])
    return np.stack([values[place] for place in np.argsort(numbers)])


def as_csv(path: Path) -> ArrayTable:
    FRAME.to_csv(path / "numbers.csv", index=False)
    return open_arrays([path / "numbers.csv"])


def as_records(path: Path) -> ArrayTable:
    np.save(path / "numbers.npy", FRAME.to_records(index=False))
    return open_arrays([path / "numbers.npy"])


def as_npz(path: Path) -> ArrayTable:
    np.savez(path / "numbers.npz", **{name: FRAME[name].to_numpy() for name in FRAME})
    return open_arrays([path / "numbers.npz"])


def as_parquet(path: Path) -> ArrayTable:
    FRAME.to_parquet(path / "numbers.parquet")
    return open_arrays([path / "numbers.parquet"])


def as_feather(path: Path) -> ArrayTable:
    FRAME.to_feather(path / "numbers.feather")
    return open_arrays([path / "numbers.feather"])


def as_frame(_: Path) -> ArrayTable:
    return table_of(FRAME)


def as_arrow(_: Path) -> ArrayTable:
    import pyarrow

    return table_of(pyarrow.Table.from_pandas(FRAME))


@pytest.mark.parametrize("made", [as_csv, as_records, as_npz, as_parquet, as_feather, as_frame, as_arrow])
def test_single_numbers_are_stacked_into_features(tmp_path: Path, made: Callable[[Path], ArrayTable]) -> None:
    manifest = packed(made(tmp_path), tmp_path)
    np.testing.assert_array_equal(column(manifest, "features"), FRAME[["a", "b"]].to_numpy())
    np.testing.assert_array_equal(column(manifest, "y"), FRAME["y"])


def test_arrays_of_several_files_are_packed_side_by_side(tmp_path: Path) -> None:
    x = np.random.RandomState(0).standard_normal((ROWS, 2, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(ROWS) % 2 == 0)
    table = open_arrays([tmp_path / "x.npy", tmp_path / "y.npy"])
    manifest = packed(table, tmp_path)
    np.testing.assert_array_equal(column(manifest, "x"), x)
    assert column(manifest, "y").dtype == np.uint8
    content = packed_manifest.read(manifest)
    assert content.source["files"] == ["x.npy", "y.npy"]
    options = PackingOptions.from_json(content.options)
    assert not differences(manifest, reopen(lineage_of(manifest)["place"], options))
    x[3] = 0
    np.save(tmp_path / "x.npy", x)
    assert differences(manifest, reopen(lineage_of(manifest)["place"], options)).changed == ["3"]


def test_stacked_columns_are_stacked_again(tmp_path: Path) -> None:
    manifest = packed(as_csv(tmp_path), tmp_path)
    options = PackingOptions.from_json(packed_manifest.read(manifest).options)
    place = lineage_of(manifest)["place"]
    assert place["stacked"] == {"features": ["a", "b"]}
    anew = pack(reopen(place, options), tmp_path, "numbers", options.changed(shards=2), previous=manifest)
    np.testing.assert_array_equal(column(anew, "features"), column(manifest, "features"))
    assert packed_manifest.read(anew).source == packed_manifest.read(manifest).source


def test_pixels_in_a_table_are_encoded(tmp_path: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (ROWS, 6, 5), np.uint8)
    table = table_of({"image": images, "y": np.zeros(ROWS, int)})
    columns = choose_columns(table, images=["image"], inputs=["image"])
    asked = PackingOptions(columns=columns, channels=1, encoder="png")
    np.testing.assert_array_equal(column(pack(table, tmp_path, "data", asked), "image")[:, 0], images)


def test_lists_in_a_frame_are_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [[n, n + 1] for n in range(ROWS)], "y": range(ROWS)})
    np.testing.assert_array_equal(column(packed(table_of(frame), tmp_path), "x"), np.asarray(frame["x"].tolist()))
