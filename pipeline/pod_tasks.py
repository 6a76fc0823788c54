"""Which tasks the pods of a cluster are at, and how many there are for them, from the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k8s.pod_state import PodState

if TYPE_CHECKING:
    from .settings import Settings


@dataclass(frozen=True)
class Demand:
    """Tasks that workers serve: those that anybody may take now, those that failed and will be due, those held."""

    pending: int
    retry: int
    running: int

    @property
    def waiting(self) -> int:
        return self.pending + self.retry


def demand(settings: Settings) -> Demand:
    """The tasks of every kind that workers with these settings serve."""
    from .task_kind import served

    counts = [kind.count() for kind in served(settings, None, None)]
    return Demand(*(sum(count[state] for count in counts) for state in ("pending", "retry", "running")))


def held_tasks() -> list[dict[str, Any]]:
    """The tasks of every kind that somebody is at, as `live_workers` gives them."""
    from . import live_workers, prediction_states, script_states

    return [*live_workers.live_workers(), *script_states.live_workers(), *prediction_states.live_workers()]


def by_pod(pods: Iterable[PodState], tasks: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The tasks that each pod is at, by the pod's name; one pod may be at several, most at one.

    An attempt names its pod where the pod was told its own name; else its host does, which all tries of one index have
    in common: then the one that has not ended is meant.
    """
    names = {pod.name: pod for pod in pods}
    hosts = {pod.host: pod for pod in names.values() if not pod.is_over}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for task in tasks:
        pod = names.get(task["pod"] or task["host"]) or (None if task["pod"] else hosts.get(task["host"]))
        if pod is not None:
            found.setdefault(pod.name, []).append(task)
    return found
