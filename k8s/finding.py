"""What the lint of manifests finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """Something wrong in an object.

    Attributes
    ----------
    path : where in the manifest, such as ``spec.template.spec.containers[0].image``.
    problem, cure : what is wrong and what to do; one clause each.
    severity : an ``error`` is refused by a server or cannot work; a ``warning`` may work, or not on every cluster.
    """

    path: str
    problem: str
    cure: str
    severity: Severity = "error"


@dataclass(frozen=True)
class Finding(Problem):
    """A problem and the object that has it, such as ``Job/trainloom``."""

    object: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.object}: {self.path}: {self.problem}; {self.cure}"
