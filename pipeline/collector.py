"""Garbage collection: frees the objects of a store that no row names, and the live events of tasks that are gone.

It runs beside workers and uploads. First the objects are listed with their marks, then the rows are read, then what no
row names and was not put for the grace period is deleted, each only if its mark still is the one that was seen. Whoever
writes a row puts the object before, which marks it anew: the row was seen, or the mark is younger than the grace
period, or it has changed. So the grace period must be longer than any time between putting an object and writing the
row that names it. A collection that was broken off is simply begun again. Events are as old as the time they tell.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from schemas.project import Project

from .abandoned_events import AbandonedEvents
from .census import Census
from .errors import ConfigurationError, PipelineError
from .owned_objects import Named, OwnedObjects
from .store.errors import ObjectMissing
from .store.interface import Store, StoredObject

if TYPE_CHECKING:
    from .session import Session

GRACE = timedelta(days=1)
MISSING_TOLD = 1_000  # rows without their object that are named; more than that is a lost store

Totals = dict[str, tuple[int, int]]
"""Kind to number and bytes of objects."""


class NothingOwned(PipelineError):
    """No row names any object although the store holds some."""


@dataclass(frozen=True)
class Collection:
    """What a collection found, and freed if it was to delete.

    Attributes
    ----------
    deleted : bool
        Whether it was to delete; else it only looked.
    freed : Totals
        Objects that no row names and that were put before the grace period.
    young : Totals
        Objects that no row names yet, put since then.
    owned : Totals
        Objects that rows name.
    renewed : int
        Objects that were to be deleted but have been put again or deleted meanwhile.
    unfinished : tuple of int
        Number and bytes of uploads and deletions that were not completed, older than the grace period.
    events : tuple of int
        Number of tasks that no longer exist, and of their events from before the grace period.
    missing : tuple of Named
        Rows whose object is not in the store, at most `MISSING_TOLD`. They are never deleted.
    """

    deleted: bool
    freed: Totals
    young: Totals
    owned: Totals
    renewed: int
    unfinished: tuple[int, int]
    events: tuple[int, int]
    missing: tuple[Named, ...]


class Collector:
    """Collects the garbage of an open session's store; uses its connection, from the thread that owns it."""

    def __init__(self, session: Session) -> None:
        self._store: Store = session.store
        self._project_id = session.project_id
        self._schema = session.settings.schema_name
        self._owners = OwnedObjects(session.connection, self._schema)
        self._events = session.events
        self._abandoned = AbandonedEvents(session.events, session.connection, self._schema)

    def collect(
        self, grace: timedelta = GRACE, *, delete: bool = False, each: Callable[[StoredObject], None] = lambda _: None
    ) -> Collection:
        """Find what can be freed, and free it if `delete`.

        Parameters
        ----------
        grace : timedelta
            What was put within this time is spared.
        delete : bool
            False for a dry run.
        each : callable
            Is told every object that is freed, or would be.

        Raises
        ------
        ConfigurationError
            If store and tables belong to different projects.
        NothingOwned
            If no row names any object although there is something to free: a database that was lost or restored empty.
        EventsUnavailable, StoreUnavailable, DatabaseUnavailable, LostConnectionError
            If a server is away; run it again.
        """
        before = self._store.now() - grace
        with self._census() as census:
            old, abandoned = census.unowned(before), self._events_before(before)
            if (old or abandoned[0]) and not census.owned():
                count = sum(number for number, _ in old.values())
                raise NothingOwned(
                    f"No row of {self._schema} names any of the {count} objects in {self._store.where} or the task of "
                    f"any of the {abandoned[1]} events that could be freed: check that the database is the right one "
                    "and complete; an unwanted store is dropped as a whole"
                )
            if delete:
                freed, renewed = self._sweep(census, before, each)
                abandoned = self._events_before(before, delete=True)
            else:
                freed, renewed = old, 0
                for stored in census.unowned_objects(before):
                    each(stored)
            return Collection(
                deleted=delete,
                freed=freed,
                young=_less(census.unowned(), old),
                owned=census.owned(),
                renewed=renewed,
                unfinished=self._unfinished(before, delete),
                events=abandoned,
                missing=self._missing(census),
            )

    def usage(self) -> tuple[Totals, Totals]:
        """The objects that rows name, and those that none names."""
        with self._census() as census:
            return census.owned(), census.unowned()

    def missing(self) -> tuple[Named, ...]:
        """Rows whose object is not in the store, at most `MISSING_TOLD`."""
        with self._census() as census:
            return self._missing(census)

    def _census(self) -> Census:
        """Objects first, rows afterwards: an object whose row came in between is owned."""
        self._refuse_other_project()
        census = Census()
        try:
            census.add_objects(self._store.list())
            with closing(self._owners.named()) as found:
                census.add_named((named.sha256, named.promised) for named in found)
        except BaseException:
            census.close()
            raise
        return census

    def _refuse_other_project(self) -> None:
        theirs, ours = self._store.claim(self._project_id), Project().fetch1("project_id")
        if not theirs == ours == self._project_id:
            raise ConfigurationError(
                f"{self._store.where} belongs to another project than the tables of {self._schema}; correct "
                "mongo_url, mongo_database, store_dir or project"
            )

    def _sweep(self, census: Census, before: datetime, each: Callable[[StoredObject], None]) -> tuple[Totals, int]:
        freed: Totals = {}
        renewed = 0
        for stored in census.unowned_objects(before):
            if not self._store.delete_unrenewed(stored):
                renewed += 1
                continue
            each(stored)
            number, size = freed.get(stored.kind, (0, 0))
            freed[stored.kind] = number + 1, size + stored.size
        return freed, renewed

    def _unfinished(self, before: datetime, delete: bool) -> tuple[int, int]:
        number = size = 0
        for left in self._store.unfinished(before):
            if delete:
                self._store.drop_unfinished(left)
            number, size = number + 1, size + left.size
        return number, size

    def _events_before(self, before: datetime, *, delete: bool = False) -> tuple[int, int]:
        """Number of tasks that are gone, and of their events; removed if `delete`."""
        tasks = events = 0
        for chosen, number in self._abandoned.found(before):
            tasks, events = tasks + 1, events + (self._events.delete(chosen) if delete else number)
        return tasks, events

    def _missing(self, census: Census) -> tuple[Named, ...]:
        """Looked up again, first the objects and then the rows: both may have come or gone since they were counted."""
        gone = set(islice(filter(self._is_gone, census.missing()), MISSING_TOLD))
        if not gone:
            return ()
        with closing(self._owners.named(gone)) as found:
            return tuple(islice((named for named in found if named.promised), MISSING_TOLD))

    def _is_gone(self, sha256: str) -> bool:
        try:
            self._store.stat(sha256)
        except ObjectMissing:
            return True
        return False


def _less(totals: Totals, others: Totals) -> Totals:
    """What is in `totals` beyond `others`, by kind."""
    left = {}
    for kind, (number, size) in totals.items():
        other_number, other_size = others.get(kind, (0, 0))
        if number > other_number:
            left[kind] = number - other_number, size - other_size
    return left
