"""What can go wrong with data: one base exception for the package, needing neither torch nor NumPy."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset, sampler, loader or streaming pipeline was given something that it cannot use."""


class ExampleIndexError(DatasetError, IndexError):
    """An example was asked for that the tier does not have; also an `IndexError`, so that plain iteration ends."""


class StreamingError(DatasetError):
    """A streaming pipeline was given something that it cannot use."""


class StepError(StreamingError):
    """A step of a streaming pipeline failed.

    It is the cause (`__cause__`) of the exception that reaches the caller, or that exception itself where the one of
    the step cannot be rebuilt outside its process.

    Attributes:
        step: the name of the step.
        batch: the number of the minibatch, from 0; None where the worker failed outside any.
        worker: which worker of the step it was, from 0.
        traceback_text: the traceback as the worker saw it.
    """

    # With defaults, since an exception is rebuilt in another process from its message first.
    def __init__(
        self, message: str, step: str = "", batch: int | None = None, worker: int = 0, traceback_text: str = ""
    ) -> None:
        super().__init__(message)
        if traceback_text:
            self.add_note(traceback_text)
        self.step = step
        self.batch = batch
        self.worker = worker
        self.traceback_text = traceback_text


class WorkerLostError(StepError):
    """A worker process of a step ended without having said why: it was killed, or ended itself."""
