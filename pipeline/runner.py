"""Trains a task: from its rows to an outcome that only has to be inserted."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from schemas.binding import Directories
from schemas.outcome import Outcome
from schemas.training_result import EXTERNAL_STORE, TrainingResult
from trainers import checkpoint, numerics
from trainers.contract import Stopped

from . import code_changes, gpu_locks, plots, provenance, rank_devices, result_uploads, worker
from .checkpoint_record import Recorded
from .data_parallel import DataParallelTrainer, devices_of
from .errors import PipelineError
from .events import EventLog
from .gpu_choice import OwnGpu
from .gpu_locks import Gpu
from .heartbeat import Heartbeat
from .node_cache import NodeCache
from .progress_file import opened
from .queue import Worker as Identity
from .rank_recipe import Recipe
from .reporters.choice import views
from .reporters.description import described
from .reporters.several import Several
from .resolver import ClassResolver
from .retry import Policy
from .running import RunningAttempt
from .settings import Database, Settings
from .shift import Shift
from .stop import StopSignal
from .store import datajoint_adapter
from .store.interface import Store, StoreUnavailable, parse_address
from .trainer_parts import arguments_of, loaders_of, named_by
from .training_events import TrainingEvents
from .training_spec import TrainingSpec, read_spec
from .usage_meter import UsageMeter

logger = logging.getLogger("trainloom")

# Not .safetensors: torch.load picks its reader by that name, and a trainer of one's own may write another format.
WEIGHTS_SUFFIX = ".weights"
HISTORIES = ("training_epoch_loss_history", "validation_epoch_loss_history", "regularization_loss_history")

SERVED = ("stop", "progress", "reporter", "checkpoints")  # what a worker does for ranks that run elsewhere

CHECKPOINT = "checkpoint"  # the kind of artifacts that are states of a training
CHECKPOINTS = "checkpoints"  # the folder of states on the node, one folder per task

FIRST_DELAY, LONGEST_DELAY = 1.0, 15.0  # s between tries to reach a store that is away
T = TypeVar("T")


@dataclass(frozen=True)
class Folders:
    """Where this session reads data files, caches them and writes weights."""

    dataset_dir: Path
    dataset_cache_dir: Path
    model_save_dir: Path

    def chosen(self, directories: Directories) -> Folders:
        """The same with a table's own directories in place."""
        return Folders(
            Path(directories.dataset_dir) if directories.dataset_dir is not None else self.dataset_dir,
            Path(directories.dataset_cache_dir)
            if directories.dataset_cache_dir is not None
            else self.dataset_cache_dir,
            Path(directories.model_save_dir) if directories.model_save_dir is not None else self.model_save_dir,
        )


class TaskRunner:
    """Trains tasks and gives finished trainers back."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        resolver: ClassResolver,
        store: Store,
        folders: Folders,
        code_dir: Path,
        events: EventLog,
    ) -> None:
        self._settings = settings
        self._events = events
        self._resolver = resolver
        self._store = store
        self._folders = folders
        self._code_dir = code_dir
        self._database = database
        self._heartbeat: Heartbeat | None = None
        self._gpu = OwnGpu(settings)
        self.in_pool = False  # then the process that started this one shows its trainings
        self.gpus: Sequence[Gpu] | None = None  # those its trainings may have; None for all that CUDA shows
        self.show_life: Callable[[], None] = lambda: None  # says that this process gets on
        self._lent = ExitStack()  # loaders and cached files of the trainers that were handed out

    def close(self) -> None:
        """End the heartbeat and the loader processes of the trainers that were handed out."""
        self._lent.close()
        if self._heartbeat is not None:
            self._heartbeat.close()

    def populate(
        self, table: Any, restrictions: tuple[Any, ...], order: str, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Train what has no result; see `TrainingResult.populate`. Results whose code has changed since are told."""
        code_changes.warn_if_changed(logger)
        options = {**options, "order": order}
        if not options["reserve_jobs"]:
            with self._gpu.taken():
                success, errors = worker.populate_directly(table, restrictions, options)
            return {"success_count": success, "error_list": errors}
        stop = StopSignal(self._settings.grace_seconds)
        progress = opened(self._settings)
        if progress is not None:
            self.show_life = progress.show_life
        with stop.listening(), self._gpu.taken():
            shift = self.new_shift([(table, restrictions)], options, stop)
            shift.run()
        return {"success_count": shift.success, "error_list": shift.errors}

    def new_shift(
        self,
        tables: Sequence[tuple[Any, tuple[Any, ...]]],
        options: dict[str, Any],
        stop: StopSignal,
        name: str | None = None,
    ) -> Shift:
        """A worker of this session for several tables, each with its restrictions; by a name of its own or at random.

        `options` are those of `worker.Worker`; `max_calls` is for all tables together.
        """
        identity = Identity(device=self._device_name())
        if name is not None:
            identity = replace(identity, name=name)
        common: dict[str, Any] = {"terms": self._terms(), "stop": stop, "identity": identity}
        workers = []
        for table, restrictions in tables:
            self._sweep_checkpoints(table)
            workers.append(worker.Worker(table, restrictions, options, heartbeat=self._beating(), **common))
            table.connection.while_away = self.show_life
        return Shift(
            workers,
            stop,
            lease_seconds=self._settings.lease_seconds,
            max_tasks=options["max_calls"],
            show_life=self.show_life,
        )

    def _sweep_checkpoints(self, table: Any) -> None:
        """Remove from this node the states of trainings that another node has finished since."""
        if not isinstance(table, TrainingResult):  # others have no states
            return
        root = self._folders.chosen(table.directories).model_save_dir / CHECKPOINTS
        (name,) = table.primary_key
        kept = [{name: folder.name} for folder in root.iterdir()] if root.is_dir() else []
        for row in (table & kept).proj().to_dicts() if kept else ():
            shutil.rmtree(root / row[name], ignore_errors=True)

    def _device_name(self) -> str:
        """What trainings run on, as people call it."""
        device = self._gpu.device
        try:
            return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        except (RuntimeError, AssertionError):  # unusable: the first training says so
            return str(device)

    def _beating(self) -> Heartbeat:
        """The side process of this session, started with its first task."""
        if self._heartbeat is None:
            settings = self._settings
            self._heartbeat = Heartbeat(
                self._database, interval=settings.heartbeat_seconds, stall_limit=settings.stall_seconds
            )
        self._heartbeat.show_life = self.show_life
        return self._heartbeat

    def _terms(self) -> worker.Terms:
        settings = self._settings
        return worker.Terms(
            settings.lease_seconds,
            settings.store_away_seconds,
            settings.grace_seconds,
            Policy(settings.max_attempts, settings.retry_seconds),
        )

    def plot(self, title: str, training: Any, validation: Any) -> Any:
        """Axes with the loss histories."""
        return plots.loss_history(title, training, validation)

    def compute(self, key: Mapping[str, Any], spec: Mapping[str, Any], table: Any) -> Outcome:
        """Train one task, upload its weights, and hand over everything that is to be inserted."""
        started = time.monotonic()
        training = read_spec(spec, self._resolver)
        folders = self._folders.chosen(table.directories)
        attempt: RunningAttempt | None = table.attempt
        meter = UsageMeter(self._gpu, attempt)
        with ExitStack() as resources:
            resources.enter_context(meter.running())  # first, so that the loaders have ended when it ends
            git = resources.enter_context(provenance.git_asked(self._code_dir))
            offered, settled = self._offers(training, folders, attempt, resources)
            parts = (training, folders, table.num_workers, resources, offered)
            trainer = self._build(*parts) if devices_of(training) == 1 else self._build_ranks(spec, *parts)
            made_by = provenance.record(training.classes(), git(), numerics=settled)  # the code as it was imported
            if attempt is not None:
                attempt.stop.polled = "stop" in named_by(
                    training
                )  # until then a signal need not wait for anybody to ask
            trainer.train()
            score, metrics = _score(trainer)
            if attempt is not None and attempt.events is not None:
                attempt.events.tested({row["metric_name"]: row["metric_value"] for row in metrics})
            blobs = {
                **{name: list(getattr(trainer, name, [])) for name in HISTORIES},
                "model_class_params_history": getattr(trainer, "model_class_params_history_dict", {}),
                "code_texts": made_by.pop("code_texts"),
            }
            here = self._takes_blobs(table)
            weights, uploaded = self._patiently(
                attempt,
                lambda: result_uploads.upload(
                    self._store,
                    _weights_path(trainer, folders, training),
                    blobs if here else {},
                    self.show_life if attempt is None else attempt.show_life,
                ),
            )
            kept = [] if attempt is None else self._patiently(attempt, attempt.kept_checkpoints)
        blobs.update(uploaded)
        chosen = {**getattr(trainer, "choices", {}), "device": str(self._gpu.device)}
        recorded = {
            **made_by,
            "code_texts": blobs.pop("code_texts"),
            "choices": chosen,
            "notes": _notes(training, weights),
        }
        columns = {
            "test_score": score,
            **blobs,
            "model_save_path": self._store.address(weights[0]["artifact_sha256"]) if weights else "",
            "parameter_count": _parameter_count(trainer),
            "epochs": len(getattr(trainer, "training_epoch_loss_history", [])),
            "duration": time.monotonic() - started,
        }
        artifacts = [*weights, *map(_checkpoint_artifact, kept)]
        return Outcome(columns, metrics, artifacts, recorded, meter.total().columns)

    def trainer(self, spec: Mapping[str, Any], table: Any) -> Any:
        """The trainer of a finished task, its best weights loaded; its loaders stay open until the session is
        closed."""
        address = spec["result"]["model_save_path"]
        training = read_spec(spec, self._resolver)
        if not address:
            raise PipelineError(f"task {training.key[:8]} has no weights: its trainer saved no file at model_save_path")
        folders = self._folders.chosen(table.directories)
        trainer = self._build(training, folders, table.num_workers, self._lent, {"seed": training.seed})
        path = _weights_path(trainer, folders, training)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._store.download(parse_address(address), path)
        trainer.load_best_performing_model()
        return trainer

    def _build(
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
        directory = self._patiently(offered.get("stop"), lambda: self._data_directory(training, folders, cache))
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

    def _build_ranks(
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
        directory = self._patiently(attempt, lambda: self._data_directory(training, folders, cache))
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
        )
        reporter = offered["reporter"] if attempt is None else attempt.reporter
        return DataParallelTrainer(recipe, devices, served, None if reporter is None else reporter.expects)

    def _data_directory(self, training: TrainingSpec, folders: Folders, cache: NodeCache) -> Path:
        """The folder that user code finds the data file in; datasets with a fingerprint of their own read from
        `dataset_dir` directly."""
        name, sha256 = training.dataset_row["dataset_file_name"], training.dataset_row["dataset_file_sha256"]
        own = getattr(training.dataset.cls, "fingerprint", None)
        if own is None:
            return cache.fetch(name, sha256, folders.dataset_dir / name, store=self._store).parents[
                len(Path(name).parts) - 1
            ]
        if own(folders.dataset_dir / name, **training.dataset.params) != sha256:
            raise PipelineError(
                f"the data at {folders.dataset_dir / name} changed since its configuration was inserted; insert it as "
                "a new dataset configuration"
            )
        return folders.dataset_dir

    def _offers(
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
            content = self._patiently(attempt, keeper.peek)
            if content is not None:
                pinned = checkpoint.read_header(content).numerics
                for name, (recorded, here) in numerics.pin(pinned).items():
                    logger.warning("%s is %s here; the training began with %s", name, here, recorded)
                settled = numerics.record()
        if training.initial_weights:
            path = folders.model_save_dir / f"{training.key}.initial{WEIGHTS_SUFFIX}"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._patiently(attempt, lambda: self._store.download(parse_address(training.initial_weights), path))
            resources.callback(path.unlink, missing_ok=True)
            offered["initial_weights"] = str(path)
        return offered, settled

    def _patiently(self, attempt: RunningAttempt | None, use: Callable[[], T]) -> T:
        """Use the store; in an attempt again and again while it is away.

        Past the limit the attempt ends as if it had been told to stop: nothing is wrong with its task, and its
        checkpoint stays on this node.
        """
        deadline, delay = time.monotonic() + self._settings.store_away_seconds, FIRST_DELAY
        while True:
            if attempt is not None:
                attempt.show_life()
            try:
                return use()
            except StoreUnavailable as error:
                if attempt is None:
                    raise
                if attempt.requested or time.monotonic() > deadline:
                    raise Stopped(f"The attempt ends while the store is away: {error}") from error
                logger.warning("%s; trying again in %.0f s", error, delay)
                time.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)

    @staticmethod
    def _takes_blobs(table: Any) -> bool:
        """Whether the histories of this table lie in our store; then nothing slow is left for the insert's
        transaction."""
        protocol: str = table.connection._config.stores[EXTERNAL_STORE]["protocol"]
        return protocol == datajoint_adapter.PROTOCOL

    def _threads(self, devices: int) -> int:
        """Of each process: several of one training share what a worker has."""
        if self._settings.torch_threads is not None:
            return max(1, self._settings.torch_threads // devices)
        return numerics.default_threads(self._settings.worker_processes * devices)


def _weights_path(trainer: Any, folders: Folders, training: TrainingSpec) -> Path:
    """Where the trainer says that it wrote the best weights; the path it was given where it says nothing."""
    return Path(getattr(trainer, "model_save_path", None) or folders.model_save_dir / f"{training.key}{WEIGHTS_SUFFIX}")


def _score(trainer: Any) -> tuple[float | None, list[dict[str, Any]]]:
    """The test score, NULL if not finite, and the rows of metrics; a trainer that scored nothing is asked to
    evaluate."""
    score = getattr(trainer, "test_score", None)
    if score is None:
        trainer.load_best_performing_model()
        score = trainer.evaluate()
    values = dict(getattr(trainer, "test_metrics", {}))
    directions = getattr(trainer, "metric_directions", {})
    rows = [
        {
            "metric_name": name,
            "metric_value": _finite(value),
            "metric_direction": directions.get(name, "min"),
            "metric_note": "" if math.isfinite(value) else f"not finite: {value}",
        }
        for name, value in values.items()
    ]
    return _finite(float(score)), rows


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _parameter_count(trainer: Any) -> int:
    """Parameters of the trainer's model; 0 where a trainer keeps it under another name than `model`."""
    count = getattr(trainer, "parameter_count", None)
    if count is not None:
        return int(count)
    model = getattr(trainer, "model", None)
    return sum(parameter.numel() for parameter in model.parameters()) if isinstance(model, torch.nn.Module) else 0


def checkpoint_name(epoch: int) -> str:
    """What the artifact is called that holds a training's state after an epoch, counted from 1."""
    return f"checkpoint of epoch {epoch}"


def _checkpoint_artifact(kept: Recorded) -> dict[str, Any]:
    return {
        "artifact_name": checkpoint_name(kept.epoch),
        "artifact_sha256": kept.sha256,
        "artifact_size": kept.size,
        "artifact_kind": CHECKPOINT,
    }


def _notes(training: TrainingSpec, weights: list[dict[str, Any]]) -> list[str]:
    notes = list(training.notes)
    if not weights:
        notes.append("the trainer saved no file at model_save_path: there are no weights in the store")
    if "checkpoints" not in named_by(training):
        notes.append("the trainer takes no checkpoints: an interrupted training starts anew")
    return notes
