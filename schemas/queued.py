"""Computed tables whose missing rows workers take from a queue."""

from __future__ import annotations

from typing import Any, ClassVar

from .binding import services
from .errors import InvalidRow
from .schema import Connected

ORDERS = ("original", "random")


class Queued(Connected):
    """Mixin of our computed tables: `populate` with DataJoint's parameters, through the session's worker."""

    attempt: Any = None  # what a computation may know of the attempt it is part of; set by the worker meanwhile
    several_processes: ClassVar[str]
    """How to have several rows made at once, for whoever asks `populate` for that."""
    participle: ClassVar[str]
    """What a task is when its row is there, in sentences."""

    def populate(
        self,
        *restrictions: Any,
        suppress_errors: bool = False,
        return_exception_objects: bool = False,
        reserve_jobs: bool = False,
        max_calls: int | None = None,
        display_progress: bool = False,
        processes: int = 1,
        make_kwargs: dict[str, Any] | None = None,
        priority: int | None = None,
        refresh: bool | None = None,
        order: str = "original",
    ) -> dict[str, Any]:
        """Make every row that is missing; DataJoint's parameters and return value, plus `order`.

        Parameters
        ----------
        order : ``"original"`` (by priority, then as queued) or ``"random"`` (by priority, then at random).

        Returns
        -------
        dict
            ``success_count`` and ``error_list`` of (key, error).
        """
        if order not in ORDERS:
            raise InvalidRow(f"order is 'original' or 'random', not {order!r}")
        if processes != 1:
            raise InvalidRow(f"populate works in this process alone; {self.several_processes}")
        options = {
            "suppress_errors": suppress_errors,
            "return_exception_objects": return_exception_objects,
            "reserve_jobs": reserve_jobs,
            "max_calls": max_calls,
            "display_progress": display_progress,
            "make_kwargs": make_kwargs,
            "priority": priority,
            "refresh": refresh,
        }
        return services(type(self).__name__).runner.populate(self, restrictions, order, options)
