"""Builds the trainers of tasks, with their loaders and with what a worker does for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from datasets_impl import mongo_access
from trainers import checkpoint, numerics

from . import gpu_locks, provenance, rank_devices
from .data_parallel import DataParallelTrainer, devices_of
from .errors import PipelineError
from .events import EventLog
from .folders import Folders
from .gpu_choice import OwnGpu
from .gpu_locks import Gpu
from .node_cache import NodeCache
from .prober import companions_of
from .rank_recipe import Recipe
from .reporters.choice import views
from .reporters.description import described
from .reporters.several import Several
from .running import RunningAttempt
from .settings import Settings
from .store.interface import Store, parse_address
from .store_patience import StorePatience
from .trainer_parts import arguments_of, loaders_of, named_by
from .training_events import TrainingEvents
from .training_spec import TrainingSpec

logger = logging.getLogger("trainloom")

# Not .safetensors: torch.load picks its reader by that name, and a trainer of one's own may write another format.
WEIGHTS_SUFFIX = ".weights"
CHECKPOINTS = "checkpoints"  # the folder of states on the node, one folder per task
SERVED = ("stop", "progress", "reporter", "checkpoints")  # what a worker does for ranks that run elsewhere


class TrainerBuilder:
    """Builds trainers for the device of a session.

    Attributes
    ----------
    in_pool : whether the process that started this one shows its trainings.
    gpus : those that trainings may have; None for all that CUDA shows.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        events: EventLog,
        gpu: OwnGpu,
        patience: StorePatience,
        code_dir: Path,
    ) -> None:
        self._settings = settings
        self._store = store
        self._events = events
        self._gpu = gpu
        self._patience = patience
        self._code_dir = code_dir
        self.in_pool = False
        self.gpus: Sequence[Gpu] | None = None

    def build(
        self,
        training: TrainingSpec,
        folders: Folders,
        num_workers: int | None,
        resources: ExitStack,
        offered: dict[str, Any],
    ) -> Any:
        """The trainer of a task; `resources` closes its loaders and gives its data file back to the node's cache, and
        the attempt that `offered` may hold waits for a store that is away."""
        cache = resources.enter_context(NodeCache(folders.dataset_cache_dir, self._settings.dataset_cache_bytes))
        directory = self._patience.with_store(
            offered.get("stop"), lambda: self._data_directory(training, folders, cache)
        )
        workers = self._settings.num_workers if num_workers is None else num_workers
        loaders = loaders_of(training, directory, workers, resources)
        attempt: RunningAttempt | None = offered.get("stop")
        named = named_by(training)
        reporter = offered.get("reporter") if attempt is None else attempt.reporter
        if reporter is not None:
            reporter.expects(len(loaders["train"]))
        if attempt is not None and not {"stop", "progress"} <= named:
            for loader in loaders.values():
                loader.before_batch = attempt.batch_was_read
        folders.model_save_dir.mkdir(parents=True, exist_ok=True)
        path = folders.model_save_dir / f"{training.key}{WEIGHTS_SUFFIX}"
        given = arguments_of(training, loaders, self._gpu.device, path)
        torch.manual_seed(training.seed)  # for trainers that know nothing of seeds
        return training.trainer.cls(
            **given, **{name: value for name, value in offered.items() if name in named}, **training.trainer.params
        )

    def build_ranks(
        self,
        rows: Mapping[str, Any],
        training: TrainingSpec,
        folders: Folders,
        num_workers: int | None,
        resources: ExitStack,
        offered: dict[str, Any],
    ) -> DataParallelTrainer:
        """What takes the place of the trainer of a task, with these rows, that is trained on several devices."""
        devices = devices_of(training)
        there = gpu_locks.available(self._settings.device) if self.gpus is None else self.gpus
        gpus = resources.enter_context(rank_devices.taken(self._gpu, devices, there, self._settings.gpu_memory))
        cache = resources.enter_context(NodeCache(folders.dataset_cache_dir, self._settings.dataset_cache_bytes))
        attempt: RunningAttempt | None = offered.get("stop")
        directory = self._patience.with_store(attempt, lambda: self._data_directory(training, folders, cache))
        folders.model_save_dir.mkdir(parents=True, exist_ok=True)
        served = {name: offered[name] for name in SERVED if name in offered and name in named_by(training)}
        recipe = Recipe(
            rows=rows,
            allowed_packages=self._settings.allowed_packages,
            code_dir=self._code_dir,
            data_directory=directory,
            num_workers=self._settings.num_workers if num_workers is None else num_workers,
            model_save_path=folders.model_save_dir / f"{training.key}{WEIGHTS_SUFFIX}",
            initial_weights=offered.get("initial_weights"),
            numerics=numerics.record(),
            offered=frozenset({*served, "stop"}),  # when ranks ask whether to stop, they tell their progress
            gpus=gpus,
            mongo=mongo_access.lent() if getattr(training.dataset.cls, "reads_mongodb", False) else None,
        )
        reporter = offered["reporter"] if attempt is None else attempt.reporter
        return DataParallelTrainer(recipe, devices, served, None if reporter is None else reporter.expects)

    def _data_directory(self, training: TrainingSpec, folders: Folders, cache: NodeCache) -> Path:
        """The folder that user code finds the data file in; datasets with a fingerprint of their own read from
        `dataset_dir` directly."""
        name, sha256 = training.dataset_row["dataset_file_name"], training.dataset_row["dataset_file_sha256"]
        own = getattr(training.dataset.cls, "fingerprint", None)
        if own is None:
            path = cache.fetch(name, sha256, folders.dataset_dir / name, store=self._store)
            for companion, digest in companions_of(training.dataset.cls, path).items():
                beside = str(PurePosixPath(name).with_name(companion))
                original = folders.dataset_dir / beside
                cache.fetch(beside, digest, original, store=self._store, companion_of=sha256)
            return path.parents[len(Path(name).parts) - 1]
        if own(folders.dataset_dir / name, **training.dataset.params) != sha256:
            raise PipelineError(
                f"the data at {folders.dataset_dir / name} changed since its configuration was inserted; insert it as "
                "a new dataset configuration"
            )
        return folders.dataset_dir

    def offers(
        self, training: TrainingSpec, folders: Folders, attempt: RunningAttempt | None, resources: ExitStack
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a trainer gets if its constructor names it, and the numerics that it runs with.

        They are settled at a task's first attempt and pinned when it is resumed: torch's thread count changes bits.
        """
        settled = numerics.settle(self._threads(devices_of(training)))
        offered: dict[str, Any] = {"seed": training.seed}
        reporter = resources.enter_context(Several(described(training), views(self._settings, in_pool=self.in_pool)))
        offered.update(progress=reporter.progress, reporter=reporter)
        if attempt is not None:
            attempt.reporter = reporter
            attempt.events = TrainingEvents(self._events, training.key, attempt.claim.attempt)
            offered.update(stop=attempt, progress=attempt.progress, reporter=attempt)
        if attempt is not None and "checkpoints" in named_by(training):
            code = provenance.code_digest(training.classes())
            keeper = attempt.keep_checkpoints(folders.model_save_dir / CHECKPOINTS / training.key, self._store, code)
            offered["checkpoints"] = keeper
            content = self._patience.with_store(attempt, keeper.peek)
            if content is not None:
                pinned = checkpoint.read_header(content).numerics
                for name, (recorded, here) in numerics.pin(pinned).items():
                    logger.warning("%s is %s here; the training began with %s", name, here, recorded)
                settled = numerics.record()
        if training.initial_weights:
            path = folders.model_save_dir / f"{training.key}.initial{WEIGHTS_SUFFIX}"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._patience.with_store(
                attempt, lambda: self._store.download(parse_address(training.initial_weights), path)
            )
            resources.callback(path.unlink, missing_ok=True)
            offered["initial_weights"] = str(path)
        return offered, settled

    def _threads(self, devices: int) -> int:
        """Of each process: several of one training share what a worker has."""
        if self._settings.torch_threads is not None:
            return max(1, self._settings.torch_threads // devices)
        return numerics.default_threads(self._settings.worker_processes * devices)


def weights_path(trainer: Any, folders: Folders, training: TrainingSpec) -> Path:
    """Where the trainer says that it wrote the best weights; the path it was given where it says nothing."""
    return Path(getattr(trainer, "model_save_path", None) or folders.model_save_dir / f"{training.key}{WEIGHTS_SUFFIX}")
