"""What a report tells of results: how their configurations differ, what came out, and where it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .reporters.description import title
from .training_curve import TrainingCurve

PACKAGES = ("torch", "trainloom")
SHOWN = 8  # characters of a key
ABSENT = ""


@dataclass(frozen=True)
class Reported:
    """One result of a report.

    Attributes
    ----------
    trace : as `pipeline.trace.trace` tells it.
    curve : all its epochs.
    """

    trace: Mapping[str, Any]
    curve: TrainingCurve

    @property
    def key(self) -> str:
        return str(self.trace["task"]["key"])

    @property
    def short(self) -> str:
        """The key as lists show it."""
        return self.key[:SHOWN]

    @property
    def title(self) -> str:
        """A line that says what was trained."""
        classes = {**self.trace["model"]["classes"], **self.trace["training"]["classes"]}
        model, optimizer = (classes[role]["class"].rpartition(".")[2] for role in ("model", "optimizer"))
        return title(self.key, model, self.trace["dataset"]["file"], optimizer, self.trace["task"]["seed"])

    @property
    def metrics(self) -> dict[str, float | None]:
        """What came out on the test tier, and the test score."""
        result = self.trace["result"]
        return {"test_score": result["test_score"], **{row["name"]: row["value"] for row in result["metrics"]}}

    @property
    def facts(self) -> dict[str, Any]:
        """How long it took and how large it is; durations in s."""
        result = self.trace["result"]
        return {name: result[name] for name in ("epochs", "duration", "parameter_count", "utc_insert_time")}


def configuration(trace: Mapping[str, Any]) -> dict[str, str]:
    """Everything that a result was made of, by a name for people; values as JSON, text as it is."""
    found: dict[str, Any] = {"data": trace["dataset"]["file"], "data sha256": trace["dataset"]["sha256"]}
    for section in ("dataset", "model", "training"):
        for role, named in trace[section]["classes"].items():
            found[role] = named["class"]
            found.update({f"{role} {name}": value for name, value in named["params"].items()})
    found |= {name: trace["training"][name] for name in ("batch_size", "epoch_limit")}
    found |= {name: trace["task"][name] for name in ("seed", "code_version")}
    return {name: _text(value) for name, value in found.items()}


def provenance(trace: Mapping[str, Any]) -> dict[str, str]:
    """Where and with what a result was made."""
    found = trace["provenance"]
    hardware, packages = found["hardware"], found["packages"]
    commit = found["git_commit"] and f"{found['git_commit'][:12]}{' (changed)' if found['git_dirty'] == 'yes' else ''}"
    facts = {
        "host": found["host"],
        "device": found["choices"].get("device", ABSENT),
        "machine": ", ".join([str(hardware.get("cpu", ABSENT)), *map(str, hardware.get("gpus", []))]),
        "python": found["python_version"],
        **{name: packages.get(name, ABSENT) for name in PACKAGES},
        "commit": commit or ABSENT,
        "notes": "; ".join(map(str, found["notes"])),
    }
    code = {f"code of the {role}": recorded["sha256"][:12] for role, recorded in found["code"].items()}
    return {name: _text(value) for name, value in (facts | code).items()}


def divided(rows: Sequence[Mapping[str, str]]) -> tuple[list[str], dict[str, str]]:
    """The names whose values differ between rows, a missing one being a value too; and those that all share."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row.get(name, ABSENT) for row in rows] for name in names}
    differing = [name for name, found in values.items() if len(set(found)) > 1]
    return differing, {name: found[0] for name, found in values.items() if name not in differing}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
