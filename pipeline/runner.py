"""Trains a task: from its rows to an outcome that only has to be inserted."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datasets_impl.loaders import build_loader
from schemas import stored_blob
from schemas.binding import Directories
from schemas.dataset_config import TIERS
from schemas.outcome import Outcome
from schemas.training_result import EXTERNAL_STORE
from trainers import numerics

from . import code_changes, plots, provenance, worker
from .errors import PipelineError
from .node_cache import NodeCache
from .resolver import ClassResolver
from .settings import Settings
from .store import datajoint_adapter
from .store.interface import Store, parse_address
from .training_spec import TrainingSpec, read_spec

logger = logging.getLogger("trainloom")

# Not .safetensors: torch.load picks its reader by that name, and a trainer of one's own may write another format.
WEIGHTS_SUFFIX = ".weights"
HISTORIES = ("training_epoch_loss_history", "validation_epoch_loss_history", "regularization_loss_history")

BLOBS = frozenset({*HISTORIES, "model_class_params_history", "code_texts"})


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
        self, settings: Settings, resolver: ClassResolver, store: Store, folders: Folders, code_dir: Path
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._store = store
        self._folders = folders
        self._code_dir = code_dir
        self._lent = ExitStack()  # loaders and cached files of the trainers that were handed out

    def close(self) -> None:
        """End the loader processes of the trainers that were handed out."""
        self._lent.close()

    def populate(
        self, table: Any, restrictions: tuple[Any, ...], order: str, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Train what has no result; see `worker.populate`. Results whose code has changed since are told."""
        code_changes.warn_if_changed(logger)
        return worker.populate(table, restrictions, order, options)

    def plot(self, title: str, training: Any, validation: Any) -> Any:
        """Axes with the loss histories."""
        return plots.loss_history(title, training, validation)

    def compute(self, key: Mapping[str, Any], spec: Mapping[str, Any], table: Any) -> Outcome:
        """Train one task, upload its weights, and hand over everything that is to be inserted."""
        started = time.monotonic()
        training = read_spec(spec, self._resolver)
        settled = numerics.settle(self._threads())
        folders = self._folders.chosen(table.directories)
        with ExitStack() as resources:
            trainer = self._build(training, folders, table.num_workers, resources)
            trainer.train()
            score, metrics = _score(trainer)
            artifacts = self._upload(_weights_path(trainer, folders, training))
        chosen = {**getattr(trainer, "choices", {}), "device": str(self._device())}
        columns = {
            "test_score": score,
            **{name: list(getattr(trainer, name, [])) for name in HISTORIES},
            "model_class_params_history": getattr(trainer, "model_class_params_history_dict", {}),
            "model_save_path": self._store.address(artifacts[0]["artifact_sha256"]) if artifacts else "",
            "parameter_count": _parameter_count(trainer),
            "epochs": len(getattr(trainer, "training_epoch_loss_history", [])),
            "duration": time.monotonic() - started,
        }
        recorded = provenance.record(
            training.classes(), self._code_dir, numerics=settled, choices=chosen, notes=_notes(training, artifacts)
        )
        return Outcome(self._uploaded(table, columns), metrics, artifacts, self._uploaded(table, recorded))

    def trainer(self, spec: Mapping[str, Any], table: Any) -> Any:
        """The trainer of a finished task, its best weights loaded; its loaders stay open until the session is
        closed."""
        address = spec["result"]["model_save_path"]
        training = read_spec(spec, self._resolver)
        if not address:
            raise PipelineError(f"task {training.key[:8]} has no weights: its trainer saved no file at model_save_path")
        folders = self._folders.chosen(table.directories)
        trainer = self._build(training, folders, table.num_workers, self._lent)
        path = _weights_path(trainer, folders, training)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._store.download(parse_address(address), path)
        trainer.load_best_performing_model()
        return trainer

    def _build(self, training: TrainingSpec, folders: Folders, num_workers: int | None, resources: ExitStack) -> Any:
        """The trainer of a task; `resources` closes its loaders and gives its data file back to the node's cache."""
        cache = resources.enter_context(NodeCache(folders.dataset_cache_dir, self._settings.dataset_cache_bytes))
        directory = self._data_directory(training, folders, cache)
        workers = self._settings.num_workers if num_workers is None else num_workers
        loaders = {}
        for tier in TIERS:
            dataset = training.dataset.cls(dict(training.dataset_row), str(directory), tier, **training.dataset.params)
            sampler = training.samplers.get(tier)
            loaders[tier] = build_loader(
                dataset,
                tier=tier,
                batch_size=training.batch_size,
                sampler=sampler.cls(dataset, **sampler.params) if sampler else None,
                num_workers=workers,
                seed=training.seed,
            )
            resources.callback(loaders[tier].close)
        folders.model_save_dir.mkdir(parents=True, exist_ok=True)
        given = {
            **{f"{tier}_dataloader": loader for tier, loader in loaders.items()},
            "device": self._device(),
            "model_class": training.model,
            "model_class_params": training.model_params,
            "optimizer_class": training.optimizer.cls,
            "optimizer_class_params": training.optimizer.params,
            "criterion_class": training.criterion.cls,
            "criterion_class_params": training.criterion.params,
            "model_save_path": str(folders.model_save_dir / f"{training.key}{WEIGHTS_SUFFIX}"),
            "max_epoch": training.epoch_limit,
        }
        torch.manual_seed(training.seed)  # for trainers that know nothing of seeds
        return training.trainer.cls(**given, **self._offered(training, folders, resources), **training.trainer.params)

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

    def _offered(self, training: TrainingSpec, folders: Folders, resources: ExitStack) -> dict[str, Any]:
        """What a trainer gets only if its constructor names it."""
        named = inspect.signature(training.trainer.cls).parameters
        offered: dict[str, Any] = {"seed": training.seed}
        if training.initial_weights:
            path = folders.model_save_dir / f"{training.key}.initial{WEIGHTS_SUFFIX}"
            self._store.download(parse_address(training.initial_weights), path)
            resources.callback(path.unlink, missing_ok=True)
            offered["initial_weights"] = str(path)
        return {name: value for name, value in offered.items() if name in named}

    def _upload(self, path: Path) -> list[dict[str, Any]]:
        if not path.is_file():
            return []
        stored = self._store.put(path, kind="weights")
        return [
            {
                "artifact_name": "weights",
                "artifact_sha256": stored.sha256,
                "artifact_size": stored.size,
                "artifact_kind": _format_of(path),
            }
        ]

    def _uploaded(self, table: Any, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its blobs put into our store beforehand: nothing slow is left for the insert's transaction."""
        if table.connection._config.stores[EXTERNAL_STORE]["protocol"] != datajoint_adapter.PROTOCOL:
            return row
        return {name: self._put_blob(name, value) if name in BLOBS else value for name, value in row.items()}

    def _put_blob(self, name: str, value: Any) -> stored_blob.Uploaded:
        content = _packed_texts(tuple(value.items())) if name == "code_texts" else stored_blob.pack(value)
        stored = self._store.put(content, kind="blob")
        return stored_blob.Uploaded(stored.sha256, stored.size)

    def _device(self) -> torch.device:
        if self._settings.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self._settings.device)

    def _threads(self) -> int:
        return self._settings.torch_threads or numerics.default_threads(self._settings.worker_processes)


def _weights_path(trainer: Any, folders: Folders, training: TrainingSpec) -> Path:
    """Where the trainer says that it wrote the best weights; the path it was given where it says nothing."""
    return Path(getattr(trainer, "model_save_path", None) or folders.model_save_dir / f"{training.key}{WEIGHTS_SUFFIX}")


@functools.lru_cache(maxsize=16)
def _packed_texts(texts: tuple[tuple[str, str], ...]) -> bytes:
    """Packed once: the code of one task is mostly that of the next, and compressing it takes milliseconds."""
    return stored_blob.pack(dict(texts))


def _format_of(path: Path) -> str:
    """The format of a weights file, by its first bytes: a safetensors file begins with the size of a JSON header,
    torch.save's is a zip."""
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(b"PK"):
        return "torch"
    return "safetensors" if head[8:] == b"{" else "bytes"


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


def _notes(training: TrainingSpec, artifacts: list[dict[str, Any]]) -> list[str]:
    notes = list(training.notes)
    if not artifacts:
        notes.append("the trainer saved no file at model_save_path: there are no weights in the store")
    if not {"checkpoints", "stop"} & set(inspect.signature(training.trainer.cls).parameters):
        notes.append("the trainer takes no checkpoints: an interrupted training starts anew")
    return notes
