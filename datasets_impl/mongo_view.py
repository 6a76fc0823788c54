"""The documents of a collection as an aggregation pipeline gives them, in the order of their `_id`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pymongo.errors import ConnectionFailure, CursorNotFound, OperationFailure, PyMongoError

from datasets_impl.bson_arrays import Columns, columns
from datasets_impl.contract import DatasetError
from datasets_impl.mongo_access import ExamplesUnavailable, MongoAccess

Stage = Mapping[str, Any]
Result = TypeVar("Result")

IMPORTED, OWN = "mongo:", "collection:"
"""What names an imported dataset (`mongo:digits`, `mongo:digits@2`) and a collection of one's own."""
REFUSED = frozenset(
    ("$out", "$merge", "$function", "$where", "$accumulator", "$changeStream", "$currentOp", "$listSessions")
)
"""Stages and operators that write, run code, or look at the server instead of data: rows are input from outside."""
CHANCE = frozenset(("$sample", "$rand", "$sampleRate", "$$NOW", "$$CLUSTER_TIME"))
"""What gives other documents each time it is asked."""
SORTS = ("$sort", "sortBy")
ELSEWHERE = frozenset(("$lookup", "$graphLookup", "$unionWith"))
"""Stages that read other collections."""
DOCUMENT_WISE = frozenset(("$match", "$project", "$set", "$addFields", "$unset"))
"""Stages that look at one document at a time, so that a range of `_id` may be chosen before them."""

# The cursor or its server has gone, or another primary is being elected: killed cursors and plans, and the codes of
# https://github.com/mongodb/specifications/blob/master/source/retryable-writes/retryable-writes.md
PASSING = frozenset((6, 7, 43, 89, 91, 175, 189, 211, 237, 262, 9001, 10107, 11600, 11602, 13435, 13436))
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # s between two tries
BATCH = 100_000  # documents asked for at once; a reply holds 16 MB at most
NOT_ALLOWED = (13, 18)  # codes: Unauthorized, AuthenticationFailed


class MongoView:
    """Batches of documents of one collection, each with an `_id` that is unique and ascending.

    A reading that breaks off, because a cursor was killed or timed out or another server became the primary, goes on
    behind the last `_id` that came.

    Args:
        access: reaches the database.
        collection: name of the collection.
        pipeline: stages before anything is read.
        fields: the fields that are asked for.
        label: names the data in messages.

    Raises:
        DatasetError: the pipeline is not a list of stages, or has one that is refused.
    """

    def __init__(
        self, access: MongoAccess, collection: str, pipeline: Sequence[Stage], fields: Sequence[str], label: str
    ) -> None:
        check_pipeline(pipeline)
        self._access = access
        self._collection = collection
        self._pipeline = [dict(stage) for stage in pipeline]
        self.fields = tuple(fields)
        self.label = label
        self._early = all(map(_keeps_identity, self._pipeline))

    def read(self, first: Any = None, stop: Any = None, *, patience: float | None = None) -> Iterator[Columns]:
        """Yield the examples whose `_id` is at least `first` and less than `stop`; None stands for no limit.

        Args:
            patience: seconds that a server may be away, `access.patience` by default.

        Raises:
            DatasetError: documents lack a field or a unique `_id`, or the server refuses the pipeline.
            ExamplesUnavailable: the server stayed away.
        """
        lower = {} if first is None else {"$gte": first}
        last: Any = None
        trial = _Trial(self._access, self.label, self._access.patience if patience is None else patience)
        while True:
            try:
                for batch in self._cursor(lower, stop):
                    if not batch:
                        continue
                    read = columns(batch, self.fields, self.label)
                    self._refuse_repeated(read, last)
                    yield read
                    last = read.identity(read.length - 1)
                    lower = {"$gt": last}
                    trial.succeeded()
                return
            except PyMongoError as error:
                trial.failed(error)

    def _cursor(self, lower: dict[str, Any], stop: Any) -> Any:
        limits = {**lower, **({} if stop is None else {"$lt": stop})}
        chosen = [{"$match": {"_id": limits}}] if limits else []
        ordered = [*chosen, {"$sort": {"_id": 1}}]
        # Where a stage looks at several documents, limits before it would change what it sees.
        stages = [*ordered, *self._pipeline] if self._early else [*self._pipeline, *ordered]
        wanted = {"$project": {"_id": 1, **dict.fromkeys(self.fields, 1)}}
        return self._access.database()[self._collection].aggregate_raw_batches(
            [*stages, wanted], batchSize=BATCH, allowDiskUse=True
        )

    def _refuse_repeated(self, read: Columns, last: Any) -> None:
        repeated = read.repeated
        if repeated is None and last is not None and read.identity(0) == last:
            repeated = last
        if repeated is not None:
            raise DatasetError(
                f"{self.label} has the _id {repeated!r} more than once, and examples are told apart by it: let the "
                "pipeline make it unique with a $set."
            )


def check_pipeline(pipeline: Any) -> None:
    """Refuse what is not a list of stages that only read.

    Raises:
        DatasetError: it names what is wrong.
    """
    if isinstance(pipeline, str | Mapping) or not isinstance(pipeline, Sequence):
        raise DatasetError(f"a pipeline is a list of stages, not {pipeline!r}.")
    for stage in pipeline:
        if not isinstance(stage, Mapping) or len(stage) != 1 or not str(next(iter(stage))).startswith("$"):
            raise DatasetError(f"{stage!r} is no stage of a pipeline: write one such as {{'$match': {{...}}}}.")
    if _sorts_by_several(pipeline):
        raise DatasetError(
            "a dataset's pipeline may sort by one field only, as a row does not keep the order of several."
        )
    for word in _words(pipeline):
        if word in REFUSED:
            raise DatasetError(
                f"a dataset's pipeline may not hold {word}, which does more than read data: leave it out."
            )
        if word in CHANCE:
            raise DatasetError(
                f"a dataset's pipeline may not hold {word}, which gives other examples each time: choose examples by "
                "their fields, and leave their order to a sampler."
            )


def _sorts_by_several(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(
            (name in SORTS and isinstance(item, Mapping) and len(item) > 1) or _sorts_by_several(item)
            for name, item in value.items()
        )
    return isinstance(value, list | tuple) and any(map(_sorts_by_several, value))


def reads_elsewhere(pipeline: Sequence[Stage]) -> bool:
    """Whether a pipeline reads other collections as well."""
    return not ELSEWHERE.isdisjoint(_words(pipeline))


def _words(value: Any) -> Iterator[str]:
    """All names, and the texts that may be variables."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from _words(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _words(item)
    elif isinstance(value, str) and value.startswith("$$"):
        yield value.partition(".")[0]


def _keeps_identity(stage: Stage) -> bool:
    ((name, content),) = stage.items()
    if name not in DOCUMENT_WISE:
        return False
    if name == "$match":
        return "$text" not in _words(content)  # such a search has to come first
    fields = [content] if isinstance(content, str) else list(content)
    return not any(field == "_id" or field.startswith("_id.") for field in fields)


def patiently(access: MongoAccess, label: str, action: Callable[[], Result]) -> Result:
    """Do what is harmless to repeat, again while its server is away, within `access.patience`.

    Args:
        label: names what is read or written, in messages.

    Raises:
        ExamplesUnavailable: it stayed away.
        DatasetError: the server refuses.
    """
    trial = _Trial(access, label, access.patience)
    while True:
        try:
            return action()
        except PyMongoError as error:
            trial.failed(error)


class _Trial:
    """Tries again while a server is away, with growing delays."""

    def __init__(self, access: MongoAccess, label: str, patience: float) -> None:
        self._access = access
        self._label = label
        self._patience = patience
        self.succeeded()

    def succeeded(self) -> None:
        self._deadline: float | None = None
        self._delay = FIRST_DELAY

    def failed(self, error: PyMongoError) -> None:
        """Wait before another try.

        Raises:
            ExamplesUnavailable: the server has been away for too long, or refuses this user.
            DatasetError: another try would fail alike.
        """
        if not _passes(error):
            raise _translated(error, self._access, self._label) from error
        if self._deadline is None:
            self._deadline = time.monotonic() + self._patience
        if time.monotonic() + self._delay > self._deadline:
            raise ExamplesUnavailable(
                f"{self._access.name}, which has {self._label}, did not answer for {self._patience:g} s: start the "
                "server, or correct mongo_url."
            ) from error
        time.sleep(self._delay)
        self._delay = min(2 * self._delay, LONGEST_DELAY)


def _passes(error: PyMongoError) -> bool:
    return isinstance(error, ConnectionFailure | CursorNotFound) or getattr(error, "code", None) in PASSING


def _translated(error: PyMongoError, access: MongoAccess, label: str) -> DatasetError:
    if isinstance(error, OperationFailure) and error.code in NOT_ALLOWED:
        return ExamplesUnavailable(
            f"this user may not use {access.name}, which has {label}: correct user and password, or have the role "
            "readWrite granted."
        )
    said = error.details.get("errmsg", error) if isinstance(error, OperationFailure) and error.details else error
    return DatasetError(f"{label} cannot be used as it is: MongoDB says: {said}")
