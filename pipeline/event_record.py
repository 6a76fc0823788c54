"""One event, and the choice of some of them: what every place that keeps events agrees on."""

from __future__ import annotations

import calendar
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from bson import ObjectId

from schemas.errors import InvalidValue
from schemas.hashing import plain, text_of

from .errors import PipelineError

Event = dict[str, Any]
"""``_id`` (ObjectId), ``task``, ``kind``, ``time`` (UTC, kept in whole milliseconds), and the fields beside them."""

OWN_NAMES = ("_id", "task", "kind", "time")
MOST_TEXT = 1 << 16  # characters of all the text and containers of one event: no document grows
LARGEST = 2**63 - 1  # integer that MongoDB keeps
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_/ :-]{0,127}")
_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NUMBER = "$number"  # marks NaN and infinity, which JSON cannot hold


class InvalidEvent(PipelineError, ValueError):
    """An event or a choice of events breaks a rule."""


class EventsUnavailable(PipelineError):
    """The place where events are kept cannot be reached, is full or refuses this user."""


class EventStore(Protocol):
    """Where events are kept. Every method raises `EventsUnavailable`; several threads may call them."""

    def insert(self, events: list[Event]) -> None:
        """Keep events; those that are there already, by their id, are left as they are."""

    def find(self, chosen: Selection, limit: int | None, newest_first: bool) -> Iterator[Event]:
        """Events by time, in bounded memory."""

    def count(self, chosen: Selection) -> int: ...

    def delete(self, chosen: Selection) -> int:
        """Remove events; how many there were."""

    def tasks(self) -> Iterator[str]:
        """What events belong to, each once, without those of no task; quick however many events there are."""

    def index(self, name: str) -> None:
        """Make choosing by task, kind and this field quick. A second time it does nothing."""


@dataclass(frozen=True)
class Selection:
    """Which events: all conditions hold.

    Attributes
    ----------
    task, kind : exactly these.
    since, until : from this time on, and before that one; naive times are UTC.
    where : field to a number, text, boolean or None (which also stands for a missing field).
    ranges : field to (low, high): numbers from `low` on and below `high`, None for no limit.
    """

    task: str | None = None
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.where.items():
            checked_name(name)
            if not (value is None or isinstance(value, bool | int | float | str)):
                raise InvalidEvent(f"{name} is compared with {value!r}; give a number, text, true, false or none")
        for name, limits in self.ranges.items():
            checked_name(name)
            if len(limits) != 2 or not all(limit is None or isinstance(limit, int | float) for limit in limits):
                raise InvalidEvent(f"the range of {name} is {limits!r}; give (low, high), None for no limit")
        for name in ("since", "until"):
            object.__setattr__(self, name, in_utc(getattr(self, name)))


def new_event(kind: str, fields: Mapping[str, Any], task: str, time: datetime | None) -> Event:
    """An event with an id of its own.

    Raises
    ------
    InvalidEvent
        For a name or value that the places of events cannot keep; the message names it.
    """
    event: Event = {
        "_id": ObjectId(),
        "task": task,
        "kind": _checked_kind(kind),
        "time": datetime.now(UTC) if time is None else in_utc(time),
    }
    if not isinstance(task, str) or len(task) > 255 or not task.isprintable():
        raise InvalidEvent(f"the task {task!r} of an event must be printable text of at most 255 characters")
    length = 0
    for name, value in fields.items():
        checked_name(name)
        if type(value) is float or type(value) is bool:  # by far the most, and NaN is worth recording
            event[name] = value
        else:
            event[name], taken = _checked(name, value)
            length += taken
    if length > MOST_TEXT:
        raise InvalidEvent(
            f"an event of kind {kind} holds {length} characters, more than {MOST_TEXT}; save them as a dataset"
        )
    return event


@functools.lru_cache(maxsize=256)  # the same few in every event
def _checked_kind(kind: str) -> str:
    if not _KIND.fullmatch(kind):
        raise InvalidEvent(f"the kind {kind!r} of an event must be at most 64 lower-case letters, digits and '_'")
    return kind


@functools.lru_cache(maxsize=4096)
def checked_name(name: Any) -> str:
    """The name of a field, if it is one."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in OWN_NAMES:
        raise InvalidEvent(
            f"{name!r} cannot be the name of a field: use at most 128 letters, digits, '_', '/', ':', '-' and spaces, "
            f"a letter first, and none of {', '.join(OWN_NAMES)}"
        )
    return name


def in_utc(time: datetime | None) -> datetime | None:
    """A time in UTC; one without a zone is in UTC already."""
    if time is None:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _checked(name: str, value: Any) -> tuple[Any, int]:
    """A value as plain Python, and how many characters it takes."""
    item = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
    if isinstance(item, float):
        return float(item), 0
    try:
        checked = plain(item, name)
    except InvalidValue as error:
        raise InvalidEvent(str(error)) from error
    _refuse_unkeepable(name, checked)
    if isinstance(checked, str):
        return checked, len(checked)
    return checked, len(text_of(checked)) if isinstance(checked, list | dict) else 0


def _refuse_unkeepable(name: str, value: Any) -> None:
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise InvalidEvent(f"{name} is an integer of more than 63 bits; give it as text")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for key in value if isinstance(value, dict) else ():
        checked_name(key)
    for item in inner:
        _refuse_unkeepable(name, item)


def fields_text(event: Event) -> str:
    """The fields as JSON; NaN and infinity are marked."""
    fields = {name: encoded(value) for name, value in event.items() if name not in OWN_NAMES}
    return json.dumps(fields, separators=(",", ":"), allow_nan=False)


def encoded(value: Any) -> Any:
    """A field's value as JSON can hold it."""
    return {_NUMBER: str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def fields_of(text: str) -> dict[str, Any]:
    """The inverse of `fields_text`."""
    return {
        name: float(value[_NUMBER]) if isinstance(value, dict) and _NUMBER in value else value
        for name, value in json.loads(text).items()
    }


def milliseconds(time: datetime) -> int:
    """A time in UTC as whole milliseconds since 1970; MongoDB leaves the rest out too."""
    return calendar.timegm(time.utctimetuple()) * 1000 + time.microsecond // 1000


def time_of(number: int) -> datetime:
    """The inverse of `milliseconds`."""
    return datetime.fromtimestamp(number // 1000, UTC).replace(microsecond=number % 1000 * 1000)
