"""Responses of many neurons to stimuli: a dataset, and a generator of data whose receptive fields are known."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from datasets_impl.contract import DatasetError, file_path
from datasets_impl.hdf5 import HDF5Dataset
from datasets_impl.hdf5_tier import open_hdf5
from datasets_impl.hdf5_writer import write_tiers

MODES = {"full-encoding": ("stimuli", "responses"), "full-decoding": ("responses", "stimuli")}  # input, target
STATISTICS = ("stimuli_mean", "stimuli_std", "responses_std")
NOISES = ("poisson", "gaussian")
SHARES = (0.7, 0.15)  # of train and validation; the rest is test


class NeuroDataDataset(HDF5Dataset):
    """Stimuli and the responses of all recorded neurons, in a file written by `write_neuro_data`.

    Each tier holds `stimuli`, shape (n, ...), and `responses`, shape (n, neurons); both are given as float32.

    Args:
        tuple_dict, dataset_cache_dir, tier, memory_budget: see `HDF5Dataset`.
        mode: `full-encoding` predicts the responses from the stimulus, `full-decoding` the stimulus from the responses.
        normalize_stimuli: subtract the mean of all pixels of the train tier and divide by their standard deviation.
        normalize_responses: divide each neuron's response by its standard deviation in the train tier; silence stays 0.

    Raises:
        DatasetError: an unknown mode, no statistics in the file, or any error of `HDF5Dataset`.
    """

    def __init__(
        self,
        tuple_dict: Mapping[str, Any],
        dataset_cache_dir: str | Path,
        tier: str,
        *,
        mode: str = "full-encoding",
        normalize_stimuli: bool = True,
        normalize_responses: bool = True,
        memory_budget: int = 1 << 30,
    ) -> None:
        if mode not in MODES:
            raise DatasetError(f"mode is {mode!r}: choose one of {', '.join(MODES)}.")
        source, target = MODES[mode]
        super().__init__(
            tuple_dict, dataset_cache_dir, tier, inputs=(source,), targets=(target,), memory_budget=memory_budget
        )
        self._scales: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        statistics = _read_statistics(file_path(tuple_dict, dataset_cache_dir))
        if normalize_stimuli:
            self._scales["stimuli"] = (statistics["stimuli_mean"], statistics["stimuli_std"])
        if normalize_responses:
            self._scales["responses"] = (torch.zeros(()), statistics["responses_std"])

    def prepare(self, name: str, block: torch.Tensor) -> torch.Tensor:
        """Return stimuli or responses normalised with the statistics of the train tier."""
        if name not in self._scales:
            return block
        mean, std = self._scales[name]
        return (block - mean) / std


def write_neuro_data(
    path: str | os.PathLike[str],
    tiers: Mapping[str, Mapping[str, np.ndarray]],
    *,
    truth: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write recorded (or simulated) `stimuli` and `responses` of each tier, with the statistics of the train tier.

    Group `/statistics` gets `stimuli_mean` and `stimuli_std` (scalars over all pixels) and `responses_std` (one per
    neuron); a deviation of 0 is stored as 1. Group `/truth` gets what `truth` holds.

    Raises:
        DatasetError: no train tier, stimuli or responses missing, or responses that are not (n, neurons).
    """
    for tier, arrays in tiers.items():
        if missing := {"stimuli", "responses"} - set(arrays):
            raise DatasetError(f"tier {tier!r} has no {' and no '.join(sorted(missing))}: give both.")
        if np.ndim(arrays["responses"]) != 2:
            raise DatasetError(f"the responses of tier {tier!r} must have shape (examples, neurons).")
    if "train" not in tiers:
        raise DatasetError(f"{path} would have no train tier, whose statistics normalise all tiers: give it.")
    stimuli = np.asarray(tiers["train"]["stimuli"], dtype=np.float64)
    responses = np.asarray(tiers["train"]["responses"], dtype=np.float64)
    statistics = {
        "stimuli_mean": stimuli.mean(),
        "stimuli_std": _divisor(stimuli.std()),
        "responses_std": _divisor(responses.std(axis=0)),
    }
    return write_tiers(path, tiers, extra={"statistics": statistics, **({"truth": truth} if truth else {})})


def generate_neuro_data(
    path: str | os.PathLike[str],
    *,
    neurons: int = 20,
    stimulus_shape: tuple[int, ...] = (1, 12, 12),
    trials: int = 2000,
    noise: str = "poisson",
    seed: int = 0,
) -> Path:
    """Simulate linear-nonlinear neurons, write what they saw and did, and return the path.

    Stimuli are white Gaussian noise. A neuron's mean response is softplus(3 * <filter, stimulus>), its filter a Gabor
    function (D. Marcelja, J. Opt. Soc. Am. 70, 1297 (1980)) of unit norm. Group `/truth` holds `filters`, shape
    (neurons, *stimulus_shape), and `means_<tier>`, the noiseless responses of each tier.

    Args:
        path: the file to write; the same arguments always give the same data.
        neurons: how many neurons.
        stimulus_shape: (height, width) or (channels, height, width).
        trials: how many stimuli, at least 10: 70 % train, 15 % validation, the rest test.
        noise: `poisson` (responses are counts) or `gaussian` (standard deviation 0.3).
        seed: of filters, stimuli and noise, 0 to 2**32 - 1.

    Raises:
        DatasetError: an argument is not of this form.
    """
    if neurons < 1 or trials < 10:
        raise DatasetError(f"neurons is {neurons} and trials {trials}: give at least 1 neuron and 10 trials.")
    if len(stimulus_shape) not in (2, 3) or min(stimulus_shape) < 1:
        raise DatasetError(f"stimulus_shape is {stimulus_shape!r}: give (height, width) or (channels, height, width).")
    if noise not in NOISES:
        raise DatasetError(f"noise is {noise!r}: choose one of {', '.join(NOISES)}.")
    generator = np.random.RandomState(seed)  # its streams are frozen (NEP 19)
    filters = np.stack([_gabor(generator, tuple(stimulus_shape)) for _ in range(neurons)])
    stimuli = generator.standard_normal((trials, *stimulus_shape)).astype(np.float32)
    drive = stimuli.reshape(trials, -1).astype(np.float64) @ filters.reshape(neurons, -1).T
    means = np.logaddexp(0.0, 3.0 * drive)
    responses = generator.poisson(means) if noise == "poisson" else means + 0.3 * generator.standard_normal(means.shape)
    responses = responses.astype(np.float32)
    train, validation = int(SHARES[0] * trials), int(sum(SHARES) * trials)
    parts = {"train": slice(0, train), "validation": slice(train, validation), "test": slice(validation, trials)}
    return write_neuro_data(
        path,
        {tier: {"stimuli": stimuli[part], "responses": responses[part]} for tier, part in parts.items()},
        truth={"filters": filters, **{f"means_{tier}": means[part] for tier, part in parts.items()}},
    )


def _gabor(generator: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    """Return a random Gabor function of unit norm, near the middle of the last two axes; channels differ in weight."""
    height, width = shape[-2:]
    vertical, horizontal = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    vertical, horizontal = vertical - generator.uniform(-0.5, 0.5), horizontal - generator.uniform(-0.5, 0.5)
    angle, phase = generator.uniform(0, np.pi), generator.uniform(0, 2 * np.pi)
    frequency, size = generator.uniform(0.5, 1.5), generator.uniform(0.25, 0.5)  # in cycles, and of half the field
    along = horizontal * np.cos(angle) + vertical * np.sin(angle)
    envelope = np.exp(-(vertical**2 + horizontal**2) / (2 * size**2))
    image = envelope * np.cos(2 * np.pi * frequency * along + phase)
    field = generator.uniform(0.5, 1, (*shape[:-2], 1, 1)) * image
    return field / np.linalg.norm(field)


def _divisor(deviation: np.ndarray) -> np.ndarray:
    return np.where(deviation > 0, deviation, 1.0)


def _read_statistics(path: Path) -> dict[str, torch.Tensor]:
    with open_hdf5(path) as file:
        group = file.get("statistics")
        if not isinstance(group, h5py.Group) or not set(STATISTICS) <= set(group):
            raise DatasetError(f"{path} has no statistics of its train tier: write it with write_neuro_data.")
        return {name: torch.tensor(group[name][()], dtype=torch.float32) for name in STATISTICS}
