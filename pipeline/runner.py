"""Trains a task: from its rows to an outcome that only has to be inserted."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from schemas.outcome import Outcome
from schemas.training_result import TrainingResult

from . import code_changes, plots, provenance, result_uploads, worker
from .capacity import capacity_of
from .claim import Worker as Identity
from .data_parallel import devices_of
from .errors import PipelineError
from .events import EventLog
from .folders import Folders
from .gpu_choice import OwnGpu
from .heartbeat import Heartbeat
from .progress_file import opened
from .resolver import ClassResolver
from .result_rows import checkpoint_artifact, notes_of, parameter_count, scored
from .retry import Policy
from .running import RunningAttempt
from .settings import Database, Settings
from .shift import Shift
from .stop import StopSignal
from .store.interface import Store, parse_address
from .store_patience import StorePatience
from .trainer_builder import CHECKPOINTS, TrainerBuilder, weights_path
from .trainer_parts import named_by
from .training_spec import read_spec
from .usage_meter import UsageMeter

logger = logging.getLogger("trainloom")

HISTORIES = ("training_epoch_loss_history", "validation_epoch_loss_history", "regularization_loss_history")


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
        self._resolver = resolver
        self._store = store
        self._folders = folders
        self._code_dir = code_dir
        self._database = database
        self._heartbeat: Heartbeat | None = None
        self._gpu = OwnGpu(settings)
        self._patience = StorePatience(settings.store_away_seconds)
        self.trainers = TrainerBuilder(settings, store, events, self._gpu, self._patience, code_dir)
        self.show_life: Callable[[], None] = lambda: None  # says that this process gets on
        self._lent = ExitStack()  # loaders and cached files of the trainers that were handed out

    @property
    def device(self) -> torch.device:
        """Where models and batches go."""
        return self._gpu.device

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
        given = capacity_of(self._settings, self._gpu, self.trainers.gpus_there(), self.trainers.group_size)
        identity = Identity(device=self._device_name(), gpu=self._gpu.uuid or "", capacity=given)
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

    def compute(self, spec: Mapping[str, Any], table: Any) -> Outcome:
        """Train one task, upload its weights, and hand over everything that is to be inserted."""
        started = time.monotonic()
        training = read_spec(spec, self._resolver)
        folders = self._folders.chosen(table.directories)
        attempt: RunningAttempt | None = table.attempt
        meter = UsageMeter(self._gpu, attempt)
        with ExitStack() as resources:
            resources.enter_context(meter.running())  # first, so that the loaders have ended when it ends
            git = resources.enter_context(provenance.git_asked(self._code_dir))
            offered, settled = self.trainers.offers(training, folders, attempt, resources)
            parts = (training, folders, table.num_workers, resources, offered)
            trainer = (
                self.trainers.build(*parts) if devices_of(training) == 1 else self.trainers.build_ranks(spec, *parts)
            )
            meter.also(getattr(trainer, "gpus", ()))
            made_by = provenance.record(training.classes(), git(), numerics=settled)  # the code as it was imported
            if attempt is not None:
                attempt.stop.polled = "stop" in named_by(
                    training
                )  # until then a signal need not wait for anybody to ask
            trainer.train()
            score, metrics = scored(trainer)
            if attempt is not None and attempt.events is not None:
                attempt.events.tested({row["metric_name"]: row["metric_value"] for row in metrics})
            blobs = {
                **{name: list(getattr(trainer, name, [])) for name in HISTORIES},
                "model_class_params_history": getattr(trainer, "model_class_params_history_dict", {}),
                "code_texts": made_by.pop("code_texts"),
            }
            here = result_uploads.takes_blobs(table)
            weights, uploaded = self._patience.with_store(
                attempt,
                lambda: result_uploads.upload(
                    self._store,
                    weights_path(trainer, folders, training),
                    blobs if here else {},
                    self.show_life if attempt is None else attempt.show_life,
                ),
            )
            kept = [] if attempt is None else self._patience.with_store(attempt, attempt.kept_checkpoints)
        blobs.update(uploaded)
        chosen = {**getattr(trainer, "choices", {}), "device": str(self._gpu.device)}
        recorded = {
            **made_by,
            "code_texts": blobs.pop("code_texts"),
            "choices": chosen,
            "notes": notes_of(training, weights),
        }
        columns = {
            "test_score": score,
            **blobs,
            "model_save_path": self._store.address(weights[0]["artifact_sha256"]) if weights else "",
            "parameter_count": parameter_count(trainer),
            "epochs": len(getattr(trainer, "training_epoch_loss_history", [])),
            "duration": time.monotonic() - started,
        }
        artifacts = [*weights, *map(checkpoint_artifact, kept)]
        return Outcome(columns, metrics, artifacts, recorded, meter.total().columns)

    def trainer(self, spec: Mapping[str, Any], table: Any) -> Any:
        """The trainer of a finished task, its best weights loaded; its loaders stay open until the session is
        closed."""
        address = spec["result"]["model_save_path"]
        training = read_spec(spec, self._resolver)
        if not address:
            raise PipelineError(f"task {training.key[:8]} has no weights: its trainer saved no file at model_save_path")
        folders = self._folders.chosen(table.directories)
        trainer = self.trainers.build(training, folders, table.num_workers, self._lent, {"seed": training.seed})
        path = weights_path(trainer, folders, training)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._store.download(parse_address(address), path)
        trainer.load_best_performing_model()
        return trainer
