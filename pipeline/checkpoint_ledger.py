"""Which checkpoints of a task are in the store, in the database; an attempt records only while it holds its lease."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from datajoint.errors import DataJointError, LostConnectionError

from schemas.attempt import Attempt
from schemas.checkpoint import Checkpoint

from .checkpoint_record import Recorded
from .claim import Claim
from .errors import DatabaseUnavailable
from .queue import LeaseLost
from .transaction import untangled


class CheckpointLedger:
    """The rows of one claim's task that were written by the same code; uses the session's connection, from the thread
    that owns it."""

    def __init__(self, claim: Claim, code: str) -> None:
        self._claim = claim
        self._code = code

    def record(self, sha256: str, size: int, epoch: int, step: int, score: float | None) -> None:
        """Write that a checkpoint is in the store.

        Raises
        ------
        LeaseLost
            If the attempt does not run any more: what it saves nobody shall go on from.
        DatabaseUnavailable
            If the database stays away.
        """
        with _reachable():
            untangled(lambda: self._record(Recorded(sha256, size, epoch, step, score)))

    def newest_first(self) -> Sequence[Recorded]:
        """What is recorded, what came farthest first."""
        with _reachable():
            ours = Checkpoint() & self._claim.key & {"checkpoint_code": self._code}
            rows = ours.to_dicts(order_by="checkpoint_epoch DESC, checkpoint_step DESC")
        return [
            Recorded(
                row["checkpoint_sha256"],
                row["checkpoint_size"],
                row["checkpoint_epoch"],
                row["checkpoint_step"],
                row["checkpoint_score"],
            )
            for row in rows
        ]

    def forget(self, sha256: str) -> None:
        """Remove the row of a checkpoint, before its object is deleted."""
        with _reachable():
            (Checkpoint() & self._claim.key & {"checkpoint_sha256": sha256}).delete_quick()

    def forget_all(self) -> None:
        """Remove the rows of every code, in the transaction that publishes the result: a worker that dies right after
        it leaves only objects that nobody owns, for the store's garbage collection."""
        (Checkpoint() & self._claim.key).delete_quick()

    def _record(self, found: Recorded) -> None:
        table = Checkpoint()
        with table.connection.transaction:
            counted = table.connection.query(
                f"UPDATE {Attempt().full_table_name} SET attempt_checkpoints = attempt_checkpoints + 1 "
                "WHERE attempt_id = %s AND attempt_outcome = 'running'",
                args=(self._claim.attempt,),
            )
            if counted.rowcount != 1:
                raise LeaseLost(f"the attempt {self._claim.attempt[:8]} has ended; its checkpoint is not recorded")
            table.insert1(self._row(found), skip_duplicates=True)

    def _row(self, found: Recorded) -> dict[str, Any]:
        return {
            **self._claim.key,
            "checkpoint_sha256": found.sha256,
            "checkpoint_size": found.size,
            "checkpoint_epoch": found.epoch,
            "checkpoint_step": found.step,
            "checkpoint_score": found.score,
            "checkpoint_code": self._code,
            "checkpoint_attempt": self._claim.attempt,
        }


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except LostConnectionError as error:
        raise DatabaseUnavailable(f"checkpoints cannot be recorded: {error}") from error
    except DataJointError as error:
        raise LeaseLost(f"checkpoints cannot be recorded: {error}") from error
