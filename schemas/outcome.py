"""What a training hands over to be written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """A finished training: everything is uploaded already, only the short insert remains.

    Attributes
    ----------
    columns : the secondary columns of `TrainingResult`.
    metrics, artifacts : rows of the parts, without the key.
    provenance, usage : the rows of the parts, without the key.
    """

    columns: dict[str, Any]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
