"""What a rank is told of the training that it takes part in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from datasets_impl.mongo_access import MongoAccess


@dataclass(frozen=True)
class Recipe:
    """Rows, names and folders; a rank finds the classes by itself, and needs neither database nor store: only a dataset
    that lies in MongoDB is read from there.

    Attributes
    ----------
    rows : of the task, as `TrainingResult.spec` gives them.
    allowed_packages, code_dir : as `ClassResolver` takes them.
    data_directory : the folder that holds the data file.
    num_workers : loader processes of each rank.
    model_save_path : the file that the first rank writes the weights to.
    start : what the trainer starts from: the path of a file by `initial_weights` or `initial_state`, or nothing.
    run_params : parameters of the trainer that take the place of the rows'.
    numerics : settings of each rank, ready for `trainers.numerics.pin`.
    offered : what the worker does for a trainer that asks for it: some of `trainers.contract.OPTIONAL_INIT_PARAMS`.
    gpus : what makes a rank's GPU the only one that CUDA sees, by rank; empty on the CPU.
    mongo : lent to a dataset that reads from MongoDB; None for others.
    """

    rows: Mapping[str, Any]
    allowed_packages: tuple[str, ...]
    code_dir: Path
    data_directory: Path
    num_workers: int
    model_save_path: Path
    start: Mapping[str, str]
    run_params: Mapping[str, Any]
    numerics: Mapping[str, Any]
    offered: frozenset[str]
    gpus: Mapping[int, str]
    mongo: MongoAccess | None = None


@dataclass(frozen=True)
class Start:
    """What a rank is started with.

    Attributes
    ----------
    worker : process id of the process that starts it, with which every rank ends.
    channels : to that process, by rank; each rank keeps its own and closes the others.
    group_round : what sets this training apart from others of a group across machines; None where all ranks are here.
    """

    recipe: Recipe
    worker: int
    channels: Mapping[int, Connection]
    group_round: str | None = None
