"""The public door: names handed on, no logic. Each is imported when it is first used, so that `import trainloom` is
quick."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.session import Session, connect
    from pipeline.settings import Settings
    from schemas.dataset_config import DatasetConfig
    from schemas.model_config import ModelConfig
    from schemas.training_config import TrainingConfig
    from schemas.training_result import TrainingResult
    from schemas.training_task import TrainingTask

__version__ = "0.1.0"

_HOMES = {
    "connect": "pipeline.session",
    "Session": "pipeline.session",
    "Settings": "pipeline.settings",
    "DatasetConfig": "schemas.dataset_config",
    "ModelConfig": "schemas.model_config",
    "TrainingConfig": "schemas.training_config",
    "TrainingTask": "schemas.training_task",
    "TrainingResult": "schemas.training_result",
}

__all__ = [
    "DatasetConfig",
    "ModelConfig",
    "Session",
    "Settings",
    "TrainingConfig",
    "TrainingResult",
    "TrainingTask",
    "connect",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainloom' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
