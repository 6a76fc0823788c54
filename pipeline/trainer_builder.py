"""Builds the trainers of tasks, with their loaders and with what a worker does for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from datasets_impl import mongo_access
from schemas.continuation import missing_state
from trainers import checkpoint, numerics

from . import gpu_locks, provenance, rank_devices
from .data_directory import data_directory
from .data_parallel import DataParallelTrainer, devices_of
from .errors import ConfigurationError, PipelineError
from .events import EventLog
from .folders import Folders
from .gpu_choice import OwnGpu
from .gpu_locks import Gpu
from .group_launch import GroupLaunch
from .node_cache import NodeCache
from .rank_group import RankGroup
from .rank_launch import RankLaunch
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
STARTS = ("initial_weights", "initial_state")  # what a trainer calls the file that it starts from
KEPT_LAST = "checkpoints_kept_last"  # the trainer's parameter that says whether its last state stays
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
        self._group = RankGroup.of_environment()
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
        attempt: RunningAttempt | None = offered.get("stop")
        cache = resources.enter_context(self._cache(folders, attempt))
        directory = self._patience.with_store(attempt, lambda: self._data_directory(training, folders, cache))
        workers = self._settings.num_workers if num_workers is None else num_workers
        loaders = loaders_of(training, directory, workers, resources)
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
            **given,
            **{name: value for name, value in offered.items() if name in named},
            **{**training.trainer.params, **self._run_params(training)},
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
        devices, group = devices_of(training), self._group
        gpus = resources.enter_context(self._gpus_of(devices))
        attempt: RunningAttempt | None = offered.get("stop")
        served = {name: offered[name] for name in SERVED if name in offered and name in named_by(training)}
        recipe = replace(
            self._recipe(rows, training, folders, resources, attempt),
            start={name: offered[name] for name in STARTS if name in offered},
            offered=frozenset({*served, "stop"}),  # when ranks ask whether to stop, they tell their progress
            gpus=gpus,
        )
        if num_workers is not None:
            recipe = replace(recipe, num_workers=num_workers)

        def new_launch() -> RankLaunch | GroupLaunch:
            return (
                RankLaunch(recipe, devices)
                if group is None
                else GroupLaunch(group, recipe, _announced(recipe, training))
            )

        reporter = offered["reporter"] if attempt is None else attempt.reporter
        batches = None if reporter is None else reporter.expects
        return DataParallelTrainer(new_launch, devices, served, batches, [*gpus.values()])

    def member_recipe(
        self,
        task: Mapping[str, Any],
        training: TrainingSpec,
        folders: Folders,
        resources: ExitStack,
        gpus: Mapping[int, str],
    ) -> Recipe:
        """The recipe of a training that the worker of a group has announced, on this machine."""
        recipe = self._recipe(task["rows"], training, folders, resources, None)
        start = self._start(training, folders, None, resources) if task["starts"] else {}
        return replace(recipe, start=start, numerics=task["numerics"], gpus=gpus)

    def _gpus_of(self, devices: int) -> AbstractContextManager[Mapping[int, str]]:
        """Holds the GPUs of the ranks that run here, by rank."""
        if self._group is None:
            return rank_devices.taken(self._gpu, devices, self.gpus_there(), self._settings.gpu_memory)
        if self._group.size != devices:
            raise ConfigurationError(
                f"the training asks for {devices} devices, and torchrun has started {self._group.size} processes; let "
                "a group of as many take it"
            )
        return nullcontext({} if self._gpu.uuid is None else {self._group.rank: self._gpu.uuid})

    def _recipe(
        self,
        rows: Mapping[str, Any],
        training: TrainingSpec,
        folders: Folders,
        resources: ExitStack,
        attempt: RunningAttempt | None,
    ) -> Recipe:
        """What each rank is told, but for what the worker does for the first one."""
        cache = resources.enter_context(self._cache(folders, attempt))
        directory = self._patience.with_store(attempt, lambda: self._data_directory(training, folders, cache))
        folders.model_save_dir.mkdir(parents=True, exist_ok=True)
        return Recipe(
            rows=rows,
            allowed_packages=self._settings.allowed_packages,
            code_dir=self._code_dir,
            data_directory=directory,
            num_workers=self._settings.num_workers,
            model_save_path=folders.model_save_dir / f"{training.key}{WEIGHTS_SUFFIX}",
            start={},
            run_params=self._run_params(training),
            numerics=numerics.record(),
            offered=frozenset(),
            gpus={},
            mongo=mongo_access.lent() if getattr(training.dataset.cls, "reads_mongodb", False) else None,
        )

    @property
    def group_size(self) -> int | None:
        """Processes of the group across machines that this one leads; None for a process on its own."""
        return None if self._group is None else self._group.size

    def gpus_there(self) -> Sequence[Gpu]:
        """The GPUs that trainings of this session may have."""
        return gpu_locks.available(self._settings.device) if self.gpus is None else self.gpus

    def _cache(self, folders: Folders, attempt: RunningAttempt | None) -> NodeCache:
        """The node's cache of data files; copies show that the attempt gets on."""
        moved = {} if attempt is None else {"moved": attempt.show_life}
        return NodeCache(folders.dataset_cache_dir, self._settings.dataset_cache_bytes, **moved)

    def _data_directory(self, training: TrainingSpec, folders: Folders, cache: NodeCache) -> Path:
        """The folder that user code finds the data file in."""
        return data_directory(training.dataset_row, training.dataset, folders.dataset_dir, cache, self._store)

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
        content = None
        if attempt is not None and "checkpoints" in named_by(training):
            code = provenance.code_digest(training.classes())
            keeper = attempt.keep_checkpoints(folders.model_save_dir / CHECKPOINTS / training.key, self._store, code)
            offered["checkpoints"] = keeper
            content = self._patience.with_store(attempt, keeper.peek)
        if content is None:
            start = self._start(training, folders, attempt, resources)
            offered.update(start)
            content = Path(start["initial_state"]).read_bytes() if "initial_state" in start else None
        if content is not None and content.startswith(checkpoint.MAGIC):  # a trainer may have a format of its own
            for name, (recorded, here) in numerics.pin(checkpoint.read_header(content).numerics).items():
                logger.warning("%s is %s here; the training began with %s", name, here, recorded)
            settled = numerics.record()
        return offered, settled

    def _start(
        self, training: TrainingSpec, folders: Folders, attempt: RunningAttempt | None, resources: ExitStack
    ) -> dict[str, str]:
        """The file that the training starts from, as its trainer calls it; nothing where it starts from its model's own
        weights. `resources` removes it."""
        if training.initial_state is None:
            raise PipelineError(missing_state(training.warm_start))
        if training.initial_weights is None:
            raise PipelineError(f"the task {training.warm_start[:8]} has no weights to start from; train it first")
        if not (training.initial_state or training.initial_weights):
            return {}
        name, sha256 = "initial_state", training.initial_state
        if not sha256:
            name, sha256 = "initial_weights", parse_address(training.initial_weights)
        member = f".{self._group.rank}" if self._group is not None else ""  # several may be on one machine
        path = folders.model_save_dir / f"{training.key}.initial{member}{WEIGHTS_SUFFIX}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._patience.with_store(attempt, lambda: self._store.download(sha256, path))
        resources.callback(path.unlink, missing_ok=True)
        return {name: str(path)}

    def _run_params(self, training: TrainingSpec) -> dict[str, Any]:
        """Parameters of the trainer that are the settings' where the row leaves them open."""
        open_ = KEPT_LAST in named_by(training) and training.trainer.params.get(KEPT_LAST) is None
        keep = self._settings.keep_last_state
        return {KEPT_LAST: keep} if open_ and keep is not None else {}

    def _threads(self, devices: int) -> int:
        """Of each process: several of one training share what a worker has."""
        devices = devices if devices == 1 or self._group is None else self._group.local_size
        if self._settings.torch_threads is not None:
            return max(1, self._settings.torch_threads // devices)
        return numerics.default_threads(self._settings.worker_processes * devices)


def _announced(recipe: Recipe, training: TrainingSpec) -> dict[str, Any]:
    """What the other processes of a group are told of a training; `member_recipe` takes it."""
    return {
        "rows": recipe.rows,
        "code": provenance.code_digest(training.classes()),
        "starts": bool(recipe.start),
        "numerics": recipe.numerics,
    }


def weights_path(trainer: Any, folders: Folders, training: TrainingSpec) -> Path:
    """Where the trainer says that it wrote the best weights; the path it was given where it says nothing."""
    return Path(getattr(trainer, "model_save_path", None) or folders.model_save_dir / f"{training.key}{WEIGHTS_SUFFIX}")
