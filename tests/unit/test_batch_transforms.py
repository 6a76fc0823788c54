"""Transforms of batches, against results computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from datasets_impl.batch_transforms import BatchTransforms
from datasets_impl.contract import DatasetError

WHITE = 255.0


def images(*shape: int) -> torch.Tensor:
    """Pixels that are all different, from 0 to below 255."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape) * 254 / torch.Size(shape).numel()


def changed(batch: torch.Tensor, *entries: dict[str, Any], draws: list[list[float]] | None) -> torch.Tensor:
    transforms = BatchTransforms(entries, tuple(batch.shape[1:]), WHITE)
    return transforms(batch, None if draws is None else torch.tensor(draws, dtype=torch.float64))


def test_a_flip_mirrors_the_examples_whose_draw_is_below_its_chance() -> None:
    batch = images(4, 1, 2, 3)
    draws = [[0.4, 0.9], [0.6, 0.1], [0.4, 0.1], [0.6, 0.9]]
    found = changed(batch, {"name": "flip", "horizontal": 0.5, "vertical": 0.5}, draws=draws)
    assert torch.equal(found[0], batch[0].flip(-1))
    assert torch.equal(found[1], batch[1].flip(-2))
    assert torch.equal(found[2], batch[2].flip(-1, -2))
    assert torch.equal(found[3], batch[3])


def test_a_crop_is_the_part_that_its_draws_say_resized() -> None:
    batch = images(2, 1, 4, 4)
    # A quarter of the area in the image's own shape: 2 x 2 pixels, from the top right and the bottom left corner.
    entry = {"name": "crop", "area": [0.25, 0.25], "aspect_ratio": [1, 1], "height": 2, "width": 2}
    found = changed(batch, entry, draws=[[0.5, 0.5, 1.0, 0.0], [0.5, 0.5, 0.0, 1.0]])
    torch.testing.assert_close(found[0], batch[0, :, :2, 2:])
    torch.testing.assert_close(found[1], batch[1, :, 2:, :2])


def test_the_aspect_ratio_of_a_crop_is_width_to_height() -> None:
    batch = images(1, 1, 4, 8)
    # Half of the area with a relative ratio of 2: the whole width, half of the height.
    entry = {"name": "crop", "area": [0.5, 0.5], "aspect_ratio": [2, 2], "height": 2, "width": 8}
    torch.testing.assert_close(changed(batch, entry, draws=[[0, 0, 0, 1.0]])[0], batch[0, :, 2:, :])


def test_a_quarter_turn_moves_every_pixel() -> None:
    batch = images(1, 2, 4, 4)
    found = changed(batch, {"name": "rotate", "degrees": [90, 90]}, draws=[[0.3]])
    torch.testing.assert_close(found[0], batch[0].rot90(1, (-2, -1)))


def test_what_a_rotation_brings_in_from_outside_is_black() -> None:
    found = changed(torch.full((1, 1, 8, 8), 9.0), {"name": "rotate", "degrees": [45, 45]}, draws=[[0.0]])
    assert found[0, 0, 0, 0] == 0
    torch.testing.assert_close(found[0, 0, 4, 4], torch.tensor(9.0))


def test_brightness_contrast_and_saturation_are_the_formulas() -> None:
    batch = images(1, 3, 2, 2)
    luma = (0.299 * batch[:, 0] + 0.587 * batch[:, 1] + 0.114 * batch[:, 2]).unsqueeze(1)
    half = [0.5, 0.5]
    torch.testing.assert_close(changed(batch, {"name": "brighten", "factor": half}, draws=[[0.0]]), batch * 0.5)
    torch.testing.assert_close(
        changed(batch, {"name": "contrast", "factor": half}, draws=[[0.0]]), 0.5 * batch + 0.5 * luma.mean()
    )
    torch.testing.assert_close(
        changed(batch, {"name": "saturate", "factor": [0, 0]}, draws=[[0.0]]), luma.expand(1, 3, 2, 2)
    )


def test_no_pixel_leaves_its_range() -> None:
    batch = images(1, 3, 4, 4)
    for name in ("brighten", "contrast", "saturate"):
        found = changed(batch, {"name": name, "factor": [9, 9]}, draws=[[0.0]])
        assert found.max() == WHITE
        assert found.min() == 0


def test_frames_are_sampled_from_a_drawn_one_on_and_from_the_first_outside_training() -> None:
    batch = images(2, 7, 1, 2, 2)
    entry = {"name": "sample_frames", "every": 3}
    found = changed(batch, entry, draws=[[0.0], [0.99]])
    assert torch.equal(found, torch.stack([batch[0, [0, 3]], batch[1, [2, 5]]]))
    assert torch.equal(changed(batch, entry, draws=None), batch[:, [0, 3]])


def test_all_images_of_a_sequence_are_changed_alike() -> None:
    one = images(1, 3, 6, 6)
    chain = (
        {"name": "flip", "horizontal": 1},
        {"name": "crop", "area": [0.5, 1], "height": 4, "width": 5},
        {"name": "rotate"},
        {"name": "brighten"},
    )
    draws = [[0.2, 0.8, 0.1, 0.9, 0.3, 0.4, 0.5, 0.6]]
    alone = changed(one, *chain, draws=draws)
    sequence = changed(one.unsqueeze(1).expand(1, 4, 3, 6, 6), *chain, draws=draws)
    assert sequence.shape == (1, 4, 3, 4, 5)
    for image in sequence[0]:
        torch.testing.assert_close(image, alone[0])


def test_outside_training_only_the_shape_changes() -> None:
    batch = images(2, 3, 4, 4)
    chain = ({"name": "flip", "horizontal": 1}, {"name": "rotate"}, {"name": "contrast"}, {"name": "crop"})
    assert torch.equal(changed(batch, *chain, draws=None), batch)
    assert changed(batch, {"name": "crop", "height": 2, "width": 3}, draws=None).shape == (2, 3, 2, 3)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "blur"}, "'blur'} is unknown: give its name, one of flip, crop"),
        ({"horizontal": 0.5}, "is unknown"),
        ({"name": "flip", "sideways": 1}, "flip has no parameter 'sideways': it has horizontal, vertical"),
        ({"name": "flip", "horizontal": 2}, "horizontal of flip is a probability"),
        ({"name": "crop", "area": [0, 1]}, "area of crop is two shares"),
        ({"name": "crop", "aspect_ratio": [2, 1]}, "aspect_ratio of crop"),
        ({"name": "crop", "height": 0}, "height and width of crop are positive integers"),
        ({"name": "rotate", "degrees": 15}, "degrees of rotate is two numbers"),
        ({"name": "brighten", "factor": [-1, 1]}, "factor of brighten"),
        ({"name": "saturate"}, "saturate needs images of 3 channels"),
        ({"name": "sample_frames", "every": 2}, "sample_frames needs sequences"),
        ({"name": "sample_frames"}, "every"),
        ({"name": "flip", "horizontal": "often"}, "unsuitable"),
    ],
)
def test_what_cannot_be_done_is_said(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        BatchTransforms([entry], (1, 4, 4), WHITE)
