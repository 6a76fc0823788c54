"""What is recorded: DataJoint tables and the pure rules about them. Importing this package opens no connection."""

from __future__ import annotations

import importlib
import os
from typing import Any

# DataJoint reads both at its import: a stray configuration file of another project must not leak in, and standard
# output belongs to the results of commands, not to log lines.
os.environ.setdefault("DJ_IGNORE_CONFIG_FILE", "true")
os.environ.setdefault("DJ_LOG_STREAM", "stderr")

_TABLES = {
    "DatasetConfig": "dataset_config",
    "ModelConfig": "model_config",
    "TrainingConfig": "training_config",
    "TrainingTask": "training_task",
    "TrainingResult": "training_result",
}


def __getattr__(name: str) -> Any:
    """The tables, each imported when it is first asked for: DataJoint takes most of a second."""
    if name not in _TABLES:
        raise AttributeError(f"module 'schemas' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_TABLES[name]}", __name__), name)
