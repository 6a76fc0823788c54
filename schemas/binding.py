"""What an open session lends the tables: how classes are found, datasets probed, tasks trained and models loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import NotConnected
from .parameters import Signature


@dataclass(frozen=True)
class Probe:
    """What a dataset says of itself at insertion.

    Attributes
    ----------
    input_shape, output_shape : list of int without the batch dimension; for several inputs or targets a list or dict of
        such lists.
    additional_model_params : parameters the dataset hands to every model.
    example_counts : tier to the number of examples one epoch draws.
    companions : files that belong to the data file, name beside it to sha256.
    origin : where the data come from, as far as the dataset class can tell.
    """

    input_shape: Any
    output_shape: Any
    additional_model_params: dict[str, Any]
    example_counts: dict[str, int]
    companions: dict[str, str] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Directories:
    """Where data files lie, are cached, and weights are written; None stands for the session's setting."""

    dataset_dir: str | None = None
    dataset_cache_dir: str | None = None
    model_save_dir: str | None = None


class Resolver(Protocol):
    """Finds classes and functions by module and name."""

    def resolve(self, module: str, name: str, kind: str) -> type:
        """The class, imported from an allow-listed package and checked against the contract of its kind."""

    def signature(self, module: str, name: str, kind: str) -> Signature:
        """The parameters that a row may set on the class."""

    def resolve_function(self, module: str, name: str) -> Callable[..., Any]:
        """The function, imported from an allow-listed package."""


class Prober(Protocol):
    """Looks into data files at insertion."""

    def fingerprint(self, row: Mapping[str, Any], directories: Directories) -> str:
        """sha256 (hex) of the dataset's content."""

    def probe(self, row: Mapping[str, Any], directories: Directories) -> Probe:
        """Shapes, additional model parameters and counts of a dataset row."""


class Runner(Protocol):
    """Trains tasks and reads results."""

    def populate(
        self, table: Any, restrictions: tuple[Any, ...], order: str, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Make the missing rows of a computed table; see `TrainingResult.populate`."""

    def compute(self, spec: Mapping[str, Any], table: Any) -> Any:
        """Train one task outside any transaction; the outcome is what `TrainingResult.make_insert` writes."""

    def trainer(self, spec: Mapping[str, Any], table: Any) -> Any:
        """The trainer of a finished task with its best weights loaded."""

    def plot(self, title: str, training: Any, validation: Any) -> Any:
        """Axes with the loss histories."""


class Models(Protocol):
    """Finds models by query, loads them, and stores those that were trained elsewhere."""

    def load_result(
        self, result: Mapping[str, Any], table: Any, device: Any, *, epoch: int | None, prefix: str, strict: bool
    ) -> Any:
        """The model of a finished task; see `TrainingResult.load_model`."""

    def load_stored(self, row: Mapping[str, Any], device: Any) -> Any:
        """A stored model; see `StoredModel.load_model`."""

    def stored_state(self, row: Mapping[str, Any], device: Any) -> dict[str, Any]:
        """The state dict of a stored model."""

    def put(
        self,
        table: Any,
        weights: Any,
        described: Mapping[str, Any],
        model_class: Any,
        params: Mapping[str, Any] | None,
        metrics: Mapping[str, Any],
    ) -> dict[str, str]:
        """Upload weights and register them; see `StoredModel.put`."""

    def find(self, table: Any, where: Any, sort: Any, limit: int | None) -> list[dict[str, str]]:
        """Keys in order; see `TrainingResult.find`."""

    def best(self, table: Any, metric: str, where: Any) -> dict[str, str]:
        """The best key by a metric; see `TrainingResult.best`."""

    def newest(self, table: Any, where: Any) -> dict[str, str]:
        """The newest key; see `TrainingResult.newest`."""


class Scripts(Protocol):
    """Runs scripts."""

    def run(self, task: Mapping[str, Any], attempt: Any) -> Any:
        """Run the script of a row of `ScriptTask`; `attempt` may say meanwhile that it is to stop. The outcome is what
        `ScriptResult.make_insert` writes."""


class Predictions(Protocol):
    """Applies trained models to data."""

    def stored_shape(self, sha256: str, name: str) -> Any:
        """The shape of one example of a stored dataset, as `Probe` has it; `name` is for messages."""

    def compute(self, spec: Mapping[str, Any], table: Any) -> Any:
        """Predict one task outside any transaction, its rows as `Prediction.spec` gives them; the outcome is what
        `Prediction.make_insert` writes."""

    def load(self, sha256: str) -> dict[str, Any]:
        """The arrays of a prediction."""

    def save(self, sha256: str, path: str | os.PathLike[str], *, force: bool) -> None:
        """Write the arrays of a prediction to a file; see `Prediction.save`."""


@dataclass(frozen=True)
class Services:
    """Everything a session binds."""

    resolver: Resolver
    prober: Prober
    runner: Runner
    models: Models
    scripts: Scripts
    predictions: Predictions


_bound: Services | None = None


def bind(services: Services | None) -> None:
    """Lend services to the tables, or take them back with None."""
    global _bound
    _bound = services


def services(what: str) -> Services:
    """The services of the open session.

    Raises
    ------
    NotConnected
        If no session is open; `what` names who asked.
    """
    if _bound is None:
        raise NotConnected(what)
    return _bound
