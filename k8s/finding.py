"""What the lint of manifests finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """Something wrong with an object.

    Attributes
    ----------
    object : ``Job/trainloom``.
    path : where in the manifest, such as ``spec.template.spec.containers[0].image``.
    problem, cure : what is wrong and what to do; one clause each.
    severity : an ``error`` is refused by a server or cannot work; a ``warning`` depends on the cluster.
    """

    object: str
    path: str
    problem: str
    cure: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.severity}: {self.object}: {self.path}: {self.problem}; {self.cure}"
