"""Fisher's irises: four measurements of a flower, one of three species."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SPECIES = ("setosa", "versicolor", "virginica")
TIERS = {0: "validation", 1: "test"}  # of every five rows the first two; the others are for training


class IrisDataset(torch.utils.data.Dataset):
    """Inputs are float32 of shape (4,), in cm; targets are the index of the species, int64 of shape ().

    Args:
        tuple_dict: the row of `DatasetConfig`.
        dataset_cache_dir: the folder that holds the data file.
        tier: "train", "validation" or "test".
        columns: which of the measurements are inputs; all of them by default.
    """

    draws_randomness = False  # reading draws no random numbers, so the loader need not seed them for each example

    def __init__(
        self,
        tuple_dict: Mapping[str, Any],
        dataset_cache_dir: str,
        tier: str,
        columns: tuple[str, ...] = ("sepal_length", "sepal_width", "petal_length", "petal_width"),
    ) -> None:
        with open(Path(dataset_cache_dir) / tuple_dict["dataset_file_name"], newline="") as file:
            rows = list(csv.DictReader(file))
        inputs = torch.tensor([[float(row[column]) for column in columns] for row in rows])
        targets = torch.tensor([SPECIES.index(row["species"]) for row in rows])
        tiers = [TIERS.get(number % 5, "train") for number in range(len(rows))]
        self._training_inputs = inputs[[other == "train" for other in tiers]]
        chosen = [other == tier for other in tiers]
        self.inputs, self.targets = inputs[chosen], targets[chosen]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def get_additional_model_params(self) -> dict[str, Any]:
        """What every model on these data is built with, besides its own parameters: the scale of the inputs."""
        return {"mean": self._training_inputs.mean(0).tolist(), "std": self._training_inputs.std(0).tolist()}

    def get_output_shape(self) -> tuple[int, ...]:
        """One number for each species; the shape of a target, which is an index, would not tell."""
        return (len(SPECIES),)
