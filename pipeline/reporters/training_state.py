"""How far a training is: what every view of it reads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

RATE_WINDOW = 10.0  # s over which the throughput is averaged


@dataclass(frozen=True)
class Training:
    """What is trained.

    Attributes
    ----------
    key : of the task.
    title : its model, data, optimizer and seed, in a line.
    batch_size : examples of a batch.
    """

    key: str
    title: str
    batch_size: int


@dataclass
class TrainingState:
    """Written by the training's thread, a few assignments each time; read by whoever draws.

    Attributes
    ----------
    max_epoch : epochs at most, 0 before the training has begun.
    batches : of an epoch, None until it is known.
    epochs_before : those that lay behind when this attempt began.
    epoch, step : epochs that lie behind, and batches of the next one.
    history : value to its epochs, counted from 1, and what it was in each.
    began : `time.monotonic()` at the beginning, s.
    left_elsewhere : of a training in another process, the seconds that are left as it is told; None if it is not.
    """

    training: Training
    max_epoch: int = 0
    batches: int | None = None
    epochs_before: int = 0
    epoch: int = 0
    step: int = 0
    history: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    left_elsewhere: float | None = None
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def begin(self, epochs_done: int, max_epoch: int) -> None:
        """The training begins, or goes on."""
        self.epochs_before = self.epoch = epochs_done
        self.max_epoch = max_epoch
        self.began = time.monotonic()

    def move(self, epoch: int, step: int) -> None:
        """So many epochs and batches lie behind; a negative epoch is one that the trainer does not know."""
        if epoch >= 0:
            self.epoch = epoch
        self.step = step

    def finish_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """An epoch, counted from 0, ended with these values."""
        if self.batches is None and self.step:
            self.batches = self.step
        self.epoch, self.step = epoch + 1, 0
        for name, value in values.items():
            epochs, kept = self.history.setdefault(name, ([], []))
            kept.append(float(value))
            epochs.append(epoch + 1)  # last: a reader takes no more values than there are epochs

    def last(self) -> dict[str, float]:
        """The newest of every value."""
        return {name: values[-1] for name, (_, values) in list(self.history.items())}

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.began

    @property
    def epochs_behind(self) -> float:
        """With the part of the present one, as far as that is known."""
        part = min(1.0, self.step / self.batches) if self.batches else 0.0
        return min(self.epoch + part, self.max_epoch or self.epoch + part)

    @property
    def seconds_left(self) -> float | None:
        """If all epochs are trained and take as long as those of this attempt; None until something is done."""
        if self.left_elsewhere is not None:
            return self.left_elsewhere
        done = self.epochs_behind - self.epochs_before
        return self.seconds / done * (self.max_epoch - self.epochs_behind) if done > 0 and self.max_epoch else None

    def batches_per_second(self) -> float | None:
        """Of the last seconds, scoring included; None until the length of an epoch and more is known. Asked again and
        again by one thread."""
        if not self.batches:
            return None
        now, behind = time.monotonic(), self.epoch * self.batches + self.step
        if self._samples and behind < self._samples[-1][1]:
            self._samples.clear()  # an epoch was begun anew
        self._samples.append((now, behind))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_WINDOW:
            self._samples.popleft()
        since, first = self._samples[0]
        return (behind - first) / (now - since) if behind > first and now > since else None
