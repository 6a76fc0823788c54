"""Packing a list of files: what comes back, and in which form."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from datasets_impl import packed_manifest
from datasets_impl.hdf5 import HDF5Dataset
from datasets_impl.packed import PackedDataset
from datasets_impl.packed_tier import PackedTier
from datasets_impl.packing import lineage_of, pack
from datasets_impl.packing_options import ColumnOptions, PackingOptions
from datasets_impl.tier_split import TierSplit
from tests.unit.packing_fixtures import IMAGE, LABEL, options, pixels, read_all, source, write_images, write_list


def first(array: np.ndarray) -> np.ndarray:
    """Channels first."""
    return array.transpose(2, 0, 1)


@pytest.mark.parametrize("storage", ["hdf5", "npz"])
@pytest.mark.parametrize("encoder", ["raw", "png", "source"])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_example_comes_back_bit_for_bit(tmp_path: Path, storage: str, encoder: str, shards: int) -> None:
    listed = write_images(tmp_path, 20)
    manifest = pack(source(listed), tmp_path, "data", options(storage=storage, encoder=encoder, shards=shards))
    images, labels = read_all(manifest, "image"), read_all(manifest, "label")
    assert len(images) == 20
    for number in range(20):
        np.testing.assert_array_equal(images[f"{number}.png"], first(pixels(number)))
        assert labels[f"{number}.png"] == number % 3
    assert packed_manifest.read(manifest).counts == {"train": 10, "validation": 5, "test": 5}
    assert len(list(manifest.parent.glob("shard-*"))) == shards


def test_a_shard_of_raw_arrays_is_an_hdf5_dataset(tmp_path: Path) -> None:
    manifest = pack(source(write_images(tmp_path, 12)), tmp_path, "data", options())
    row = {"dataset_file_name": f"{manifest.parent.name}/shard-00000.h5"}
    dataset = HDF5Dataset(row, tmp_path, "train", classes=3)
    packed = PackedDataset({"dataset_file_name": f"{manifest.parent.name}/manifest.json"}, tmp_path, "train", classes=3)
    for ours, theirs in zip(packed.__getitems__([3, 0, 3]), dataset.__getitems__([3, 0, 3]), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_an_npz_shard_is_read_by_numpy(tmp_path: Path) -> None:
    manifest = pack(source(write_images(tmp_path, 12)), tmp_path, "data", options(storage="npz"))
    with np.load(manifest.parent / "shard-00000.npz") as shard:
        assert shard["train/image"].shape == (6, 3, 5, 4)
        assert shard["train/label"].dtype == np.int64


def test_jpeg_keeps_its_quality_and_size(tmp_path: Path) -> None:
    listed = write_images(tmp_path, 8, lambda number: (30 + number, 40))
    sizes = {}
    for quality in (30, 90):
        made = options(encoder="jpeg", quality=quality, height=16, width=24)
        tier = PackedTier(pack(source(listed), tmp_path, "data", made), "train")
        column = tier.manifest.column("image")
        assert column.shape == (3, 16, 24)
        assert tier.read(column, np.arange(tier.length))[0].shape == (3, 16, 24)
        sizes[quality] = tier.shards[0]["train/image/data"].size
    assert sizes[30] < sizes[90]


def test_images_of_other_sizes_keep_them_where_the_dtype_is_variable(tmp_path: Path) -> None:
    listed = write_images(tmp_path, 8, lambda number: (3 + number, 4))
    image = ColumnOptions("image", "input", "vuint8", image=True)
    for encoder in ("raw", "png"):
        manifest = pack(source(listed), tmp_path, "data", options(columns=(image, LABEL), encoder=encoder))
        for name, value in read_all(manifest, "image").items():
            number = int(name.removesuffix(".png"))
            np.testing.assert_array_equal(value, first(pixels(number, 3 + number, 4)))


@pytest.mark.parametrize("encoder", ["raw", "png"])
@pytest.mark.parametrize("dtype", ["uint8", "vuint8"])
def test_sequences_of_images(tmp_path: Path, encoder: str, dtype: str) -> None:
    write_images(tmp_path, 12)
    lengths = [2, 2, 2, 2] if dtype == "uint8" else [1, 2, 3, 4]
    clips = [[f"{(clip * 3 + frame) % 12}.png" for frame in range(length)] for clip, length in enumerate(lengths)]
    rows = [(",".join(clip), number) for number, clip in enumerate(clips)]
    listed = write_list(tmp_path / "clips.csv", [("image", "label"), *rows])
    image = ColumnOptions("image", "input", dtype, image=True)
    made = options(columns=(image, LABEL), sequence=True, encoder=encoder)
    found = read_all(pack(source(listed, sequence=True), tmp_path, "clips", made), "image")
    for clip in clips:
        expected = np.stack([first(pixels(int(name.removesuffix(".png")))) for name in clip])
        np.testing.assert_array_equal(found[",".join(clip)], expected)


@pytest.mark.parametrize(
    ("dtype", "cell", "value"),
    [(name, "7", np.asarray(7, name)) for name in ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64")]
    + [(name, "-1.5", np.asarray(-1.5, name)) for name in ("float16", "float32", "float64")]
    + [("int8", "1 -2 3", np.asarray([1, -2, 3], np.int8)), ("vint16", "4,5", np.asarray([4, 5], np.int16))]
    + [("vfloat32", "0.5;1", np.asarray([0.5, 1], np.float32)), ("vint8", "", np.asarray([], np.int8))]
    + [("str", "Ärger, ja", "Ärger, ja"), ("vstr", "x", "x")],
)
def test_every_dtype_of_a_column(tmp_path: Path, dtype: str, cell: str, value: Any) -> None:
    write_images(tmp_path, 4)
    rows = [(f"{number}.png", cell) for number in range(4)]
    listed = write_list(tmp_path / "list.csv", [("image", "extra"), *rows])
    made = options(columns=(IMAGE, ColumnOptions("extra", "target", dtype)))
    for found in read_all(pack(source(listed), tmp_path, "data", made), "extra").values():
        assert isinstance(found, str) == isinstance(value, str)
        np.testing.assert_array_equal(found, value)
        assert isinstance(found, str) or found.dtype == value.dtype


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_grey_images_keep_their_depth(tmp_path: Path, dtype: str) -> None:
    deep = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    for number in range(4):
        Image.fromarray(deep + np.uint16(number)).save(tmp_path / f"{number}.png")
    rows = [(f"{number}.png", 0) for number in range(4)]
    listed = write_list(tmp_path / "list.csv", [("image", "label"), *rows])
    for encoder in ("raw", "png") if dtype == "uint16" else ("raw",):
        made = options(columns=(ColumnOptions("image", "input", dtype, image=True), LABEL), channels=1, encoder=encoder)
        for name, found in read_all(pack(source(listed), tmp_path, "data", made), "image").items():
            np.testing.assert_array_equal(found[0], deep + int(name[0]))


@pytest.mark.parametrize(
    ("exif", "shape", "kept"), [("keep", (4, 6), 6), ("drop", (4, 6), None), ("apply", (6, 4), None)]
)
def test_exif_is_kept_applied_or_dropped(tmp_path: Path, exif: str, shape: tuple[int, int], kept: int | None) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    for number in range(4):
        Image.fromarray(pixels(number, 4, 6)).save(tmp_path / f"{number}.jpg", exif=turned)
    rows = [(f"{number}.jpg", 0) for number in range(4)]
    listed = write_list(tmp_path / "list.csv", [("image", "label"), *rows])
    manifest = pack(source(listed), tmp_path, "data", options(encoder="jpeg", exif=exif))
    tier = PackedTier(manifest, "train")
    assert tier.manifest.column("image").shape == (3, *shape)
    assert tier.read(tier.manifest.column("image"), np.asarray([0]))[0].shape == (3, *shape)
    data, offsets = (tier.shards[0][f"train/image/{part}"] for part in ("data", "offsets"))
    with Image.open(io.BytesIO(data[: offsets[1]].tobytes())) as image:
        assert image.getexif().get(0x0112) == kept


def test_the_split_follows_a_column(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    tiers = ["test", "train", "validation", "train", "train", "test"]
    rows = [(f"{number}.png", number, tier) for number, tier in enumerate(tiers)]
    listed = write_list(tmp_path / "list.csv", [("image", "label", "part"), *rows])
    manifest = pack(source(listed), tmp_path, "data", options(split=TierSplit(column="part")))
    for tier in ("train", "validation", "test"):
        opened = PackedTier(manifest, tier)
        labels = opened.read(opened.manifest.column("label"), np.arange(opened.length))
        assert list(labels) == [number for number, name in enumerate(tiers) if name == tier]


def test_a_stratified_split_has_the_shares_in_every_class_and_follows_the_seed(tmp_path: Path) -> None:
    listed = write_images(tmp_path, 24)
    packed = {}
    for seed in (0, 1):
        split = TierSplit(shares=(0.5, 0.25, 0.25), stratify="label", seed=seed)
        packed[seed] = pack(source(listed), tmp_path, "data", options(split=split))
        opened = PackedTier(packed[seed], "test")
        labels = opened.read(opened.manifest.column("label"), np.arange(opened.length))
        assert np.bincount(labels).tolist() == [2, 2, 2]
    assert packed[0] != packed[1]


def test_the_manifest_says_what_was_packed(tmp_path: Path) -> None:
    manifest = packed_manifest.read(pack(source(write_images(tmp_path, 12)), tmp_path, "data", options(classes=3)))
    content = json.loads(manifest.text())
    assert content["counts"] == {"train": 6, "validation": 3, "test": 3}
    assert content["source"]["list"] == "list.csv"
    assert content["source"]["rows"] == 12
    assert content["options"]["classes"] == 3
    assert str(tmp_path) not in manifest.text()
    shard = tmp_path / f"data-{manifest.key[:12]}" / manifest.shards[0].file
    assert packed_manifest.sha256_of(shard) == manifest.shards[0].sha256
    with h5py.File(shard) as file:
        assert json.loads(file.attrs["packing"])["options"] == content["options"]


def test_the_same_source_elsewhere_has_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        made.append(pack(source(write_images(tmp_path / place, 12)), tmp_path / place, "data", options(shards=2)))
    here, there = (sorted(path.parent.iterdir()) for path in made)
    assert [path.name for path in here] == [path.name for path in there]
    for one, other in zip(here, there, strict=True):
        assert one.name == "lineage.json" or one.read_bytes() == other.read_bytes()


@pytest.mark.feature("B2")
def test_a_changed_packing_is_a_new_one_and_the_old_one_stays(tmp_path: Path) -> None:
    listed = write_images(tmp_path, 12)
    old = pack(source(listed), tmp_path, "data", options(encoder="jpeg", quality=90))
    before = {path.name: path.read_bytes() for path in old.parent.iterdir()}
    kept = PackingOptions.from_json(packed_manifest.read(old).options)
    new = pack(source(listed), tmp_path, "data", kept.changed(quality=40), previous=old)
    assert new != old
    assert {path.name: path.read_bytes() for path in old.parent.iterdir()} == before
    assert packed_manifest.read(new).options["quality"] == 40
    assert lineage_of(new)["version"] == 2
    assert lineage_of(new)["previous"] == packed_manifest.read(old).key


def test_options_survive_the_manifest() -> None:
    asked = options(encoder="jpeg", height=4, width=4, split=TierSplit(column="part"), classes=3)
    assert PackingOptions.from_json(json.loads(json.dumps(asked.as_json()))) == asked
    assert PackingOptions.from_json(json.loads(json.dumps(options().as_json()))) == options()
