"""What the workers of a streaming pipeline are to the one who feeds them, threads and processes alike."""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple, NoReturn, Protocol

from datasets_impl.errors import StepError


class Result(NamedTuple):
    """What the last step of a branch made of a minibatch."""

    branch: int
    batch: int
    items: Any


class Failure(NamedTuple):
    """An exception of a worker.

    Attributes:
        step, worker: whose.
        batch: the number of the minibatch; None outside any.
        error: the exception, None where it cannot leave its process.
        message: its type and text.
        traceback_text: as the worker saw it.
    """

    step: str
    worker: int
    batch: int | None
    error: BaseException | None
    message: str
    traceback_text: str

    @classmethod
    def of(cls, error: BaseException, step: str, worker: int, batch: int | None) -> Failure:
        """Describe an exception that was just caught."""
        message = "".join(traceback.format_exception_only(error)).strip()
        return cls(step, worker, batch, error, message, "".join(traceback.format_exception(error)))

    def throw(self) -> NoReturn:
        """Raise the exception as its own type, with a `StepError` as its cause; else that error.

        What ends a program or a generator (`SystemExit`, `StopIteration`) arrives as a `StepError`: it was not meant
        for the caller.
        """
        place = "outside any minibatch" if self.batch is None else f"in minibatch {self.batch}"
        where = f"step {self.step!r} failed {place} (worker {self.worker}): {self.message}"
        failure = StepError(where, self.step, self.batch, self.worker, self.traceback_text)
        error = self.error
        if not isinstance(error, Exception) or isinstance(error, StopIteration | StopAsyncIteration):
            raise failure from error
        failure.__cause__ = error.__cause__
        error.add_note(where)
        raise error from failure


class WorkerCrew(Protocol):
    """The workers of all branches, from when they are started until they are closed."""

    def has_room(self) -> bool:
        """Whether the first queue of every branch takes another minibatch now."""

    def put(self, batch: int, items: Any) -> None:
        """Send a minibatch to every branch; only after `has_room`."""

    def get(self, block: bool, or_room: bool = False) -> Result | None:
        """Return the next result, in any order; with `block` as soon as there is one, or, with `or_room`, room again.

        None: there is none yet. What a worker raised is raised here.
        """

    def close(self, finished: bool) -> None:
        """End all workers: after their last minibatch was returned (`finished`), or at once. May be called twice."""
