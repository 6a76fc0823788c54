"""A dataset of lines of numbers in a text file: tier, three inputs, one target."""

import os

import torch


class CsvDataset(torch.utils.data.Dataset):
    def __init__(self, tuple_dict, dataset_cache_dir, tier, scale=1.0):
        path = os.path.join(dataset_cache_dir, tuple_dict["dataset_file_name"])
        with open(path) as file:
            rows = [line.strip().split(",") for line in file]
        self.rows = [[float(x) for x in row[1:]] for row in rows if row[0] == tier]
        self.scale = scale

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = torch.tensor(self.rows[index])
        return row[:3] * self.scale, row[3:]

    def get_additional_model_params(self):
        return {"bias": True}


class OddSampler(torch.utils.data.Sampler):
    def __init__(self, dataset, offset=0):
        self.indices = list(range(offset, len(dataset), 2))

    def __iter__(self):
        return iter(self.indices)

    def __len__(self):
        return len(self.indices)
