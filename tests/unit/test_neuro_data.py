"""Neural data: both modes, their normalisation, and receptive fields that can be found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from datasets_impl.contract import DatasetError
from datasets_impl.hdf5_writer import write_tiers
from datasets_impl.neuro_data import NeuroDataDataset, generate_neuro_data, write_neuro_data

ROW = {"dataset_file_name": "neurons.h5"}


def whole(folder: Path, tier: str = "train", **params: Any) -> tuple[torch.Tensor, torch.Tensor]:
    data = NeuroDataDataset(ROW, folder, tier, **params)
    return data.__getitems__(range(len(data)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neurons")
    generate_neuro_data(folder / "neurons.h5", neurons=6, stimulus_shape=(1, 8, 10), trials=1500, seed=3)
    return folder


@pytest.mark.parametrize("noise", ["poisson", "gaussian"])
@pytest.mark.parametrize("stimulus_shape", [(10, 10), (2, 8, 8)])
def test_ridge_regression_finds_the_receptive_fields(
    tmp_path: Path, noise: str, stimulus_shape: tuple[int, ...]
) -> None:
    # For white Gaussian stimuli the linear regression of a linear-nonlinear neuron is its filter, up to a factor
    # (J. J. Bussgang, MIT RLE technical report 216 (1952)).
    path = tmp_path / "neurons.h5"
    generate_neuro_data(path, neurons=5, stimulus_shape=stimulus_shape, trials=2000, noise=noise, seed=1)
    with h5py.File(path) as file:
        truth = file["truth/filters"][()]
    stimuli, responses = (tensor.double().flatten(1) for tensor in whole(tmp_path))
    gram = stimuli.T @ stimuli + 10 * torch.eye(stimuli.shape[1])
    found = torch.linalg.solve(gram, stimuli.T @ (responses - responses.mean(0))).T
    for neuron, (estimate, field) in enumerate(zip(found.numpy(), truth.reshape(len(truth), -1), strict=True)):
        assert np.corrcoef(estimate, field)[0, 1] > 0.8, neuron


def test_the_modes_exchange_input_and_target(folder: Path) -> None:
    stimuli, responses = whole(folder, "test", mode="full-encoding")
    decoding_inputs, decoding_targets = whole(folder, "test", mode="full-decoding")
    assert (stimuli.shape, responses.shape) == ((225, 1, 8, 10), (225, 6))
    assert torch.equal(decoding_inputs, responses)
    assert torch.equal(decoding_targets, stimuli)
    assert NeuroDataDataset(ROW, folder, "train").get_additional_model_params() == {}


@pytest.mark.parametrize("tier", ["train", "test"])
def test_every_tier_is_normalised_with_the_train_tier(folder: Path, tier: str) -> None:
    with h5py.File(folder / "neurons.h5") as file:
        stimuli, responses = file[tier]["stimuli"][()], file[tier]["responses"][()]
        train_stimuli, train_responses = file["train/stimuli"][()], file["train/responses"][()]
    raw = whole(folder, tier, normalize_stimuli=False, normalize_responses=False)
    np.testing.assert_array_equal(raw[0].numpy(), stimuli)
    np.testing.assert_array_equal(raw[1].numpy(), responses)
    scaled = whole(folder, tier)
    np.testing.assert_allclose(
        scaled[0].numpy(), (stimuli - train_stimuli.mean()) / train_stimuli.std(), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(scaled[1].numpy(), responses / train_responses.std(axis=0), rtol=1e-5)


def test_normalisation_is_the_same_in_memory_and_on_disk(folder: Path) -> None:
    in_memory, on_disk = whole(folder), whole(folder, memory_budget=0)
    assert torch.equal(in_memory[0], on_disk[0])
    assert torch.equal(in_memory[1], on_disk[1])


def test_a_silent_neuron_stays_silent(tmp_path: Path) -> None:
    tier = {"stimuli": np.random.RandomState(0).standard_normal((4, 3)), "responses": np.zeros((4, 2))}
    write_neuro_data(tmp_path / "neurons.h5", {"train": tier})
    assert torch.equal(whole(tmp_path)[1], torch.zeros(4, 2))


def test_counts_follow_the_known_means(folder: Path) -> None:
    with h5py.File(folder / "neurons.h5") as file:
        means, counts = file["truth/means_train"][()], file["train/responses"][()]
    assert np.array_equal(counts, np.round(counts)) and counts.min() >= 0
    # A Poisson variable has variance equal to its mean: the squared standardised residuals average 1.
    assert abs(((counts - means) ** 2 / means).mean() - 1) < 0.1


def test_the_seed_decides_the_bytes(tmp_path: Path) -> None:
    first, again, other = (
        generate_neuro_data(tmp_path / name, neurons=2, stimulus_shape=(4, 4), trials=20, seed=seed).read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"neurons": 0}, "neurons is 0"),
        ({"trials": 5}, "trials 5"),
        ({"stimulus_shape": (4,)}, "stimulus_shape is"),
        ({"noise": "pink"}, "choose one of poisson, gaussian"),
    ],
)
def test_unsuitable_arguments_of_the_generator_are_errors(tmp_path: Path, params: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        generate_neuro_data(tmp_path / "neurons.h5", **params)


def test_unsuitable_recordings_and_files_are_errors(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "neurons.h5"
    tier = {"stimuli": np.zeros((2, 3)), "responses": np.zeros((2, 1))}
    for tiers, said in (
        ({"train": {"stimuli": np.zeros(2)}}, "has no responses"),
        ({"train": {"stimuli": np.zeros(2), "responses": np.zeros(2)}}, r"shape \(examples, neurons\)"),
        ({"test": tier}, "no train tier"),
    ):
        with pytest.raises(DatasetError, match=said):
            write_neuro_data(path, tiers)
    write_tiers(path, {"train": tier})
    with pytest.raises(DatasetError, match="write it with write_neuro_data"):
        whole(tmp_path)
    with pytest.raises(DatasetError, match="choose one of full-encoding, full-decoding"):
        whole(folder, mode="encoding")
