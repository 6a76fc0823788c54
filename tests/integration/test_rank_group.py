"""Tasks that are trained across machines: two launchers of torchrun, as two machines would start them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.session import Session
from schemas.attempt import Attempt
from tests.integration.held_worker import awaited
from tests.integration.small_tasks import SHUFFLED, insert, outcomes, result
from tests.integration.test_data_parallel import LAB_NET, PARALLEL, lab, lab_folder  # noqa: F401 - fixtures
from trainloom import TrainingResult, TrainingTask

pytestmark = [
    pytest.mark.feature("B9"),
    pytest.mark.slow,
    pytest.mark.usefixtures("impatience", "lab"),
]

LIMIT = 280  # s
COMMAND = "from pipeline.cli.main import main; import sys; sys.exit(main(['worker', '--wait', '0']))"


class Machines:
    """Two launchers that find each other on this machine."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        script = folder / "work.py"
        script.write_text(f"if __name__ == '__main__':\n    {COMMAND}\n")
        self.logs = [folder / f"machine{number}.log" for number in range(2)]
        launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", uuid.uuid4().hex]
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self.launchers = []
        for log in self.logs:
            with log.open("w") as output:
                self.launchers.append(
                    subprocess.Popen(
                        [*launch, *meet, str(script)], env=environment, stdout=output, stderr=subprocess.STDOUT
                    )
                )

    @property
    def said(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in self.logs)

    def end(self) -> list[int]:
        """Wait for both; their exit codes."""
        try:
            return [launcher.wait(LIMIT) for launcher in self.launchers]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the machines did not end:\n{self.said}") from None

    def process(self, rank: int) -> psutil.Process:
        """The process of the group that has this number."""
        for launcher in self.launchers:
            for child in psutil.Process(launcher.pid).children():
                if child.environ().get("RANK") == str(rank):
                    return child
        raise AssertionError(f"there is no rank {rank}:\n{self.said}")

    def close(self) -> None:
        for launcher in self.launchers:
            for process in [*psutil.Process(launcher.pid).children(recursive=True)] if launcher.poll() is None else []:
                process.kill()
            launcher.kill()
            launcher.wait()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[[], Machines]]:
    started: list[Machines] = []

    def start() -> Machines:
        started.append(Machines(tmp_path))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_queue_is_trained_across_machines_as_on_one(
    postgres_session: Session, machines: Callable[[], Machines]
) -> None:
    keys = insert(postgres_session, seeds=(0, 1), model=LAB_NET, training=PARALLEL)
    keys += insert(postgres_session, seeds=(0,), training=SHUFFLED)  # rank 0 trains it alone
    group = machines()
    assert group.end() == [0, 0], group.said
    across = [result(key) for key in keys]
    assert outcomes() == {"finished": 3}
    TrainingResult().delete(prompt=False)
    TrainingResult().populate(reserve_jobs=True)
    assert across == [result(key) for key in keys]


def test_a_rank_that_fails_is_told_and_the_next_task_works(
    postgres_session: Session,
    machines: Callable[[], Machines],
    lab: Path,  # noqa: F811
) -> None:
    (lab / "kill.1").touch()
    (bad, good) = insert(postgres_session, seeds=(0, 1), model=LAB_NET, training=PARALLEL)
    TrainingTask().update1({**bad, "priority": 1})
    group = machines()
    assert group.end() == [0, 0], group.said
    assert good in TrainingResult()
    errors = [row["attempt_error"] for row in Attempt().to_dicts(order_by="attempt_start")]
    assert errors[0].startswith("RankFailed: rank 1 of 2 was ended by SIGKILL")


def test_a_machine_that_is_told_to_stop_stops_all_with_a_checkpoint(
    postgres_session: Session,
    machines: Callable[[], Machines],
    lab: Path,  # noqa: F811
) -> None:
    insert(postgres_session, seeds=(0,), model=LAB_NET, training={**PARALLEL, "epoch_limit": 100_000})
    group = machines()
    reached = [lab / f"reached.{rank}" for rank in range(2)]
    awaited(lambda: all(file.exists() for file in reached), lambda: group.said, LIMIT)
    os.kill(group.process(1).pid, signal.SIGTERM)
    assert all(group.end()), group.said
    assert outcomes() == {"preempted": 1}
    (attempt,) = Attempt().to_dicts()
    assert attempt["attempt_checkpoints"] > 0
