"""Live events: what trainings, validations and tests report while they run, appended in batches by a side thread."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from .event_record import Event, EventStore, EventsUnavailable, InvalidEvent, Selection, new_event
from .event_spool import EventSpool

logger = logging.getLogger("trainloom")

BATCH = 2_000  # events sent at a time
MOST_WAITING = 20_000  # events in memory; more go to the spool
DELAY = 1.0  # s for which events are collected before they are sent; a process that is killed loses those
ROOM_WAIT = 1.0  # s that an append waits for room where the events come faster than they can be kept
FIRST_RETRY, LAST_RETRY = 1.0, 15.0  # s between tries to reach a place that is away
FLUSH_LIMIT = 10.0  # s
LEFT_BEHIND_LIMIT = 600.0  # s to send what dead processes have left: files of up to 64 MiB


class EventLog:
    """Appends events and reads them back.

    `append` never waits for a place that is away: events then go to a bounded file on this node and follow later, from
    this process or from the next session on the node. A process that is killed loses what it appended within the last
    `DELAY` seconds. Thread-safe; a forked child goes on with a queue of its own.
    """

    def __init__(self, store: EventStore, spool: EventSpool) -> None:
        self._store = store
        self._spool = spool
        self._begin()
        atexit.register(self.close)

    def _begin(self) -> None:
        """An empty queue and no thread yet: at first and in a forked child, which must not send its parent's events."""
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._queue: deque[Event] = deque()
        self._sending: list[Event] = []
        self._sender: threading.Thread | None = None
        self._failures = 0  # since the last success
        self._lagging = False  # events come faster than they can be kept
        self._urgent = 0  # callers of `flush`
        self._closed = False

    @property
    def dropped(self) -> int:
        """Events that this process lost, since the spool was full."""
        return self._spool.dropped

    def append(self, kind: str, fields: Mapping[str, Any], *, task: str = "", time: datetime | None = None) -> None:
        """Keep an event.

        Parameters
        ----------
        kind : such as ``training``, ``validation`` or ``testing``.
        fields : name to number (NaN and infinity too), text, boolean, None, list or dict.
        task : what it belongs to, such as the key of a task.
        time : by default now, by the clock of this machine; kept in UTC and whole milliseconds.

        Raises
        ------
        InvalidEvent
            If something cannot be kept; the message names it.
        """
        event = new_event(kind, fields, task, time)
        if os.getpid() != self._pid:
            self._begin_in_child()
        with self._changed:
            if self._closed:
                raise EventsUnavailable("the session of this event log is closed; open another one")
            spooled = self._make_room()
            self._queue.append(event)
            self._start()
            if len(self._queue) in (1, BATCH):
                self._changed.notify_all()
        if spooled:
            self._spool.write(spooled)

    def _start(self) -> None:
        """Start the side thread, if it does not run yet; the lock is held."""
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_for_ever, name="events", daemon=True)
            self._sender.start()

    def _begin_in_child(self) -> None:
        self._spool = self._spool.for_child()
        self._begin()

    def _make_room(self) -> list[Event]:
        """What has to go to the spool, since the queue is full and does not move; the lock is held."""
        if len(self._queue) < MOST_WAITING:
            return []
        if not (self._failures or self._lagging):
            self._changed.wait_for(lambda: len(self._queue) < MOST_WAITING or self._failures > 0, ROOM_WAIT)
            if len(self._queue) < MOST_WAITING:
                return []
            self._lagging = True  # wait no more before it has caught up
        spooled = list(self._queue)
        self._queue.clear()
        return spooled

    # Reading

    def read(
        self, chosen: Selection | None = None, *, limit: int | None = None, newest_first: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Events by time, as dicts of ``task``, ``kind``, ``time`` (UTC) and their fields, in bounded memory. An index
        serves those of one task and kind, however many others there are.

        Raises
        ------
        EventsUnavailable
            If the place where they are kept cannot be reached.
        """
        self._flush_own()
        if limit is not None and limit < 1:
            raise InvalidEvent(f"limit is the number of events to read, at least 1, not {limit!r}")
        for event in self._store.find(chosen or Selection(), limit, newest_first):
            yield {name: value for name, value in event.items() if name != "_id"}

    def count(self, chosen: Selection | None = None) -> int:
        """How many events there are; raises as `read` does."""
        self._flush_own()
        return self._store.count(chosen or Selection())

    def delete(self, chosen: Selection | None = None) -> int:
        """Remove events, all by default; how many there were. Raises as `read` does, and `EventsUnavailable` while
        events of this process still wait on the node: they would follow later."""
        if not self.flush():
            raise EventsUnavailable("events wait on this node until their server answers; delete them then")
        return self._store.delete(chosen or Selection())

    def tasks(self) -> Iterator[str]:
        """What events belong to, each once, without those of no task; raises as `read` does."""
        self._flush_own()
        return self._store.tasks()

    def index(self, field: str) -> None:
        """Make choosing by task, kind and this field quick; raises as `read` does."""
        Selection(where={field: None})  # refuses what is no name
        self._store.index(field)

    def flush(self, wait_s: float = FLUSH_LIMIT) -> bool:
        """Send what waits, at most for so long; whether all of it is kept now."""
        if os.getpid() != self._pid:
            return True  # a forked child that has appended nothing
        with self._changed:
            if self._sender is None:
                return self._spool.empty
            before = self._failures
            self._urgent += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._idle() or self._failures > before or self._closed, wait_s)
            self._urgent -= 1
            return self._idle()

    def send_left_behind(self) -> bool:
        """Send what processes of this node that died have left; whether all of it is kept now."""
        if os.getpid() != self._pid:
            self._begin_in_child()
        with self._changed:
            if self._closed:
                raise EventsUnavailable("the session of this event log is closed; open another one")
            self._spool.adopt()
            self._start()
            self._changed.notify_all()
        return self.flush(LEFT_BEHIND_LIMIT)

    def _flush_own(self) -> None:
        if not self.flush():
            logger.warning("some events wait on this node until their server answers; they are not among those read")

    def _idle(self) -> bool:
        return not (self._queue or self._sending) and self._spool.empty

    def close(self, wait_s: float = FLUSH_LIMIT) -> None:
        """Send what waits, at most for so long; the rest stays on this node for the next session. Closing twice is
        harmless."""
        if self._closed or os.getpid() != self._pid:
            return
        self.flush(wait_s)
        with self._changed:
            self._closed = True
            left = [*self._sending, *self._queue]  # what is being sent may arrive or not; its ids tell
            self._queue.clear()
            self._changed.notify_all()
        if left:
            self._spool.write(left)
        self._spool.close()
        atexit.unregister(self.close)

    # The sender

    def _send_for_ever(self) -> None:
        self._spool.adopt()
        while True:
            with self._changed:
                self._await_work()
                if self._closed:
                    return
                self._sending = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            sent = self._send(self._sending)
            with self._changed:
                if not sent and not self._closed:
                    self._spool.write(self._sending)
                self._sending = []
            sent = sent and self._send_spooled()
            with self._changed:
                self._failures = 0 if sent else self._failures + 1
                self._lagging = self._lagging and bool(self._queue)
                self._changed.notify_all()

    def _await_work(self) -> None:
        """Return when something is to be sent; the lock is held."""
        if self._failures:
            delay = min(LAST_RETRY, FIRST_RETRY * 2.0 ** (self._failures - 1))
            self._changed.wait_for(lambda: self._closed or self._urgent > 0, delay)
            return
        self._changed.wait_for(lambda: self._closed or self._queue or not self._spool.empty)
        self._changed.wait_for(lambda: self._closed or self._urgent > 0 or len(self._queue) >= BATCH, DELAY)

    def _send(self, events: list[Event]) -> bool:
        if not events:
            return True
        try:
            self._store.insert(events)
        except EventsUnavailable as error:
            if not self._failures:
                logger.warning("%s; events wait on this node meanwhile", error)
            return False
        return True

    def _send_spooled(self) -> bool:
        """Send what waits on the disk; False at the first failure."""
        try:
            return self._sent_spooled()
        except OSError as error:
            logger.warning("events that wait on this node cannot be read: %s", error)
            return False

    def _sent_spooled(self) -> bool:
        for file in self._spool.files():
            batch: list[Event] = []
            for event in file:
                batch.append(event)
                if len(batch) == BATCH:
                    if not self._send(batch):
                        return False
                    batch = []
            if not self._send(batch):
                return False
        return True
