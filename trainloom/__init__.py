"""The public door: names handed on, no logic. Each is imported when it is first used, so that `import trainloom` is
quick."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.cli.main import main
    from pipeline.data_import import import_examples
    from pipeline.results import leaderboard
    from pipeline.session import Session, connect
    from pipeline.settings import Settings
    from pipeline.tensor_hub import TensorHub
    from schemas.dataset_config import DatasetConfig
    from schemas.model_config import ModelConfig
    from schemas.prediction import Prediction
    from schemas.prediction_task import PredictionTask
    from schemas.script_result import ScriptResult
    from schemas.script_task import ScriptTask
    from schemas.stored_dataset import StoredDataset
    from schemas.stored_model import StoredModel
    from schemas.training_config import TrainingConfig
    from schemas.training_result import TrainingResult
    from schemas.training_task import TrainingTask

__version__ = "0.1.0"

_HOMES = {
    "connect": "pipeline.session",
    "import_examples": "pipeline.data_import",
    "leaderboard": "pipeline.results",
    "main": "pipeline.cli.main",
    "Session": "pipeline.session",
    "Settings": "pipeline.settings",
    "DatasetConfig": "schemas.dataset_config",
    "ModelConfig": "schemas.model_config",
    "TrainingConfig": "schemas.training_config",
    "TrainingTask": "schemas.training_task",
    "TrainingResult": "schemas.training_result",
    "StoredDataset": "schemas.stored_dataset",
    "StoredModel": "schemas.stored_model",
    "PredictionTask": "schemas.prediction_task",
    "Prediction": "schemas.prediction",
    "ScriptTask": "schemas.script_task",
    "ScriptResult": "schemas.script_result",
    "TensorHub": "pipeline.tensor_hub",
}

__all__ = [
    "DatasetConfig",
    "ModelConfig",
    "Prediction",
    "PredictionTask",
    "ScriptResult",
    "ScriptTask",
    "Session",
    "Settings",
    "StoredDataset",
    "StoredModel",
    "TensorHub",
    "TrainingConfig",
    "TrainingResult",
    "TrainingTask",
    "connect",
    "import_examples",
    "leaderboard",
    "main",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainloom' has no attribute {name!r}")
    _refuse_shadows()
    return getattr(importlib.import_module(_HOMES[name]), name)


def _refuse_shadows() -> None:
    """Our packages have common names: another `pipeline` that is found first must be named, not half imported."""
    ours = Path(__file__).resolve().parent.parent
    for root in ("pipeline", "schemas", "trainers", "datasets_impl", "models_impl"):
        spec = importlib.util.find_spec(root)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if found != ours / root / "__init__.py":
            raise ImportError(
                f"the package {root} of trainloom is hidden by {found or 'a folder of that name'}; "
                "rename that one or start Python in another folder"
            )


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
