"""Reading packed data in batches: changed at random, by functions of one's own, in any loader."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets_impl.contract import DatasetError
from datasets_impl.loaders import build_loader
from datasets_impl.packed import PackedDataset
from datasets_impl.packing import pack
from datasets_impl.packing_options import ColumnOptions
from datasets_impl.randomness import uniform_draws
from datasets_impl.window_sampler import WindowSampler
from tests.unit.packing_fixtures import LABEL, options, source, write_images, write_list

TRANSFORMS = [{"name": "flip"}, {"name": "crop", "area": [0.3, 1.0]}, {"name": "saturate"}]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 40 images in two shards, half of them for training."""
    folder = tmp_path_factory.mktemp("packed")
    return pack(source(write_images(folder / "images", 40)), folder, "images", options(shards=2, classes=3))


def opened(manifest: Path, tier: str = "train", **params: Any) -> PackedDataset:
    row = {"dataset_file_name": f"{manifest.parent.name}/{manifest.name}"}
    return PackedDataset(row, manifest.parents[1], tier, **params)


def epoch(dataset: Any, *, number: int = 0, workers: int = 0, batch: int = 4, **options: Any) -> list[Any]:
    loader = build_loader(dataset, tier="train", batch_size=batch, num_workers=workers, seed=7, **options)
    loader.set_epoch(number)
    try:
        return list(loader)
    finally:
        loader.close()


def fetch_inverted(columns: Any, index: int) -> dict[str, Any]:
    return {"image": 255 - columns["image"][index], "label": columns["label"][index]}


def prepare_noisy(example: dict[str, Any]) -> dict[str, Any]:
    return {**example, "image": example["image"] * (random.random() + np.random.rand() + float(torch.rand(())))}


def prepare_without_label(example: dict[str, Any]) -> dict[str, Any]:
    return {"image": example["image"]}


def collate_as_dict(examples: list[dict[str, Any]]) -> Any:
    pixels = torch.stack([torch.as_tensor(example["image"], dtype=torch.float32) for example in examples])
    return {"pixels": pixels}, torch.tensor([int(example["label"]) for example in examples])


def test_what_happens_to_an_example_depends_on_seed_epoch_and_index_alone(images: Path) -> None:
    dataset = opened(images, transforms=TRANSFORMS)
    whole = torch.cat([batch[0] for batch in epoch(dataset, batch=20)])
    for workers, size in ((0, 4), (2, 5)):
        parts = epoch(dataset, workers=workers, batch=size)
        assert torch.equal(torch.cat([batch[0] for batch in parts]), whole)
    other = torch.cat([batch[0] for batch in epoch(dataset, number=1, batch=20)])
    assert not torch.equal(other.sort(0).values, whole.sort(0).values)


def test_ranks_together_give_the_examples_of_one(images: Path) -> None:
    dataset = opened(images, transforms=TRANSFORMS)
    alone = epoch(dataset, batch=4)
    parts = []
    for rank in range(2):
        loader = build_loader(dataset, tier="train", batch_size=2, seed=7)
        loader.split_between(rank, 2)
        parts.append([share.batch[0] for share in loader])
    for batch, *of_ranks in zip(alone, *parts, strict=True):
        assert torch.equal(torch.cat(of_ranks), batch[0])


def test_nothing_is_changed_at_random_outside_training(images: Path) -> None:
    plain, dataset = opened(images, "test"), opened(images, "test", transforms=TRANSFORMS)
    for ours, theirs in zip(epoch(dataset, batch=10), epoch(plain, batch=10), strict=True):
        assert torch.equal(ours[0], theirs[0])
    assert torch.equal(opened(images, transforms=TRANSFORMS)[3][0], opened(images)[3][0])


def test_global_randomness_is_left_alone(images: Path) -> None:
    dataset = opened(images, transforms=TRANSFORMS, prepare=prepare_noisy)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    epoch(dataset)
    assert torch.equal(torch.rand(3), expected)


def test_functions_of_ones_own_fetch_prepare_and_collate(images: Path) -> None:
    plain = opened(images)
    dataset = opened(images, fetch=fetch_inverted, collate=collate_as_dict)
    inputs, targets = dataset.__getitems__([5, 1])
    assert torch.equal(inputs["pixels"], 255 - plain.__getitems__([5, 1])[0])
    assert torch.equal(targets, plain.__getitems__([5, 1])[1])
    assert dataset[5][0]["pixels"].shape == plain[5][0].shape


def test_what_a_function_draws_depends_on_seed_epoch_and_index_alone(images: Path) -> None:
    dataset = opened(images, prepare=prepare_noisy)
    whole = torch.cat([batch[0] for batch in epoch(dataset, batch=20)])
    assert torch.equal(torch.cat([batch[0] for batch in epoch(dataset, workers=2, batch=4)]), whole)
    assert not torch.equal(whole, torch.cat([batch[0] for batch in epoch(opened(images), batch=20)]))


def test_a_window_shuffle_gives_every_example_once(images: Path) -> None:
    dataset = opened(images)
    batches = epoch(dataset, sampler=WindowSampler(dataset, blocks=2))
    expected = torch.stack([dataset[index][0] for index in range(len(dataset))])
    found = torch.cat([batch[0] for batch in batches])
    assert torch.equal(found.flatten(1).sort(0).values, expected.flatten(1).sort(0).values)


def test_the_short_last_batch_can_be_kept(images: Path) -> None:
    assert [len(batch[1]) for batch in epoch(opened(images), batch=8)] == [8, 8]
    assert [len(batch[1]) for batch in epoch(opened(images, drop_last=False), batch=8)] == [8, 8, 4]


def test_sequences_are_cut_or_filled_up(tmp_path: Path) -> None:
    write_images(tmp_path, 24)
    cells = [",".join(f"{number + offset}.png" for offset in range(1 + number % 3)) for number in range(20)]
    listed = write_list(tmp_path / "films.csv", [("image", "label"), *((cell, 0) for cell in cells)])
    film = ColumnOptions("image", "input", "vuint8", image=True)
    manifest = pack(source(listed, sequence=True), tmp_path, "films", options(columns=(film, LABEL), sequence=True))
    with pytest.raises(DatasetError, match="differ in shape .* give a sequence_length"):
        opened(manifest).__getitems__([0, 1, 2])
    inputs, _ = opened(manifest, sequence_length=2, pad_value=-1).__getitems__(list(range(10)))
    assert inputs.shape == (10, 2, 3, 5, 4)
    filled = (inputs[:, 1] == -1).flatten(1).all(1)
    assert filled.any()
    assert not filled.all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"transforms": [{"name": "blur"}]}, "is unknown"),
        ({"transforms": TRANSFORMS, "input_dtype": "uint8"}, "transforms compute with real numbers"),
        ({"transforms": TRANSFORMS, "collate": collate_as_dict}, "call the transforms in collate"),
        ({"sequence_length": 0}, "sequence_length is 0: give a positive integer"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(images: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        opened(images, **params)


def test_a_column_that_a_function_leaves_out_is_named(images: Path) -> None:
    with pytest.raises(DatasetError, match="has no 'label' after fetch and prepare"):
        opened(images, prepare=prepare_without_label)[0]


def test_only_an_input_is_transformed(tmp_path: Path) -> None:
    listed = write_images(tmp_path, 8)
    target = ColumnOptions("image", "target", "uint8", image=True)
    label = ColumnOptions("label", "input", "int64")
    manifest = pack(source(listed), tmp_path, "swapped", options(columns=(target, label)))
    with pytest.raises(DatasetError, match="transforms need one input that is an image"):
        opened(manifest, transforms=TRANSFORMS)


def test_draws_are_uniform_and_their_own_for_every_seed_epoch_index_and_place() -> None:
    draws = uniform_draws(3, 5, torch.arange(20_000), 4)
    assert draws.dtype == torch.float64
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws.flatten(), bins=20, min=0, max=1)
    # Of 4,000 expected in each bin the standard deviation is 62: six of them are out of reach of chance.
    assert (counts - 4000).abs().max() < 6 * 62
    assert torch.corrcoef(draws.T).fill_diagonal_(0).abs().max() < 0.04
    assert len(draws.flatten().unique()) == draws.numel()
    assert torch.equal(uniform_draws(3, 5, torch.tensor([77, 3]), 2), draws[[77, 3], :2])
    for other in (uniform_draws(4, 5, torch.arange(9), 4), uniform_draws(3, 6, torch.arange(9), 4)):
        assert not (other == draws[:9]).any()
