"""Leases are renewed as long as the training deserves it, whatever else happens, and no longer."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from pipeline.connection import HealingConnection, open_connection
from pipeline.errors import PipelineError
from pipeline.heartbeat import Heartbeat, Lease
from pipeline.job_table import job_table
from pipeline.services import PostgresServer
from pipeline.services.process import has_gone, wait_until
from pipeline.session import Session
from pipeline.settings import Database
from schemas.attempt import Attempt
from schemas.training_result import TrainingResult

INTERVAL = 0.1  # s
QUIET = 15 * INTERVAL  # s without a beat that show that there are none any more
LIMIT = 30.0  # s
HOLDER = Path(__file__).with_name("heartbeat_holder.py")
SECONDS_AGO = {
    "postgresql": "EXTRACT(EPOCH FROM (CURRENT_TIMESTAMP AT TIME ZONE 'UTC') - {})",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, {}, UTC_TIMESTAMP(3)) / 1e6",
}


class Job:
    """A reserved row in the job table of the results, with an attempt, and a connection of its own to look at them."""

    def __init__(self, session: Session) -> None:
        info = session.connection.conn_info
        self.database = Database(
            backend=session.connection.adapter.backend,
            host=info["host"],
            port=info["port"],
            user=info["user"],
            password=info["passwd"] or "",
            name=info["database_name"],
            tls=False,
        )
        self.connection: HealingConnection = open_connection(self.database, stores={}, reconnect_seconds=LIMIT)
        jobs = job_table(TrainingResult())
        self.table = jobs.full_table_name
        (self.column,) = jobs.primary_key
        self.key = {self.column: uuid.uuid4().hex}
        self.attempt = uuid.uuid4().hex
        self.attempts = Attempt().full_table_name
        Attempt().insert1(
            {
                "attempt_id": self.attempt,
                "attempt_table": "training_result",
                "attempt_key": self.key[self.column],
                "attempt_worker": "worker",
                "attempt_host": "host",
                "attempt_pid": 1,
                "attempt_pod": "",
                "attempt_device": "cpu",
                "attempt_start": datetime(2026, 1, 1),
                "attempt_epoch": 7,
                "attempt_outcome": "running",
                "attempt_blame": "",
                "attempt_error": "",
            }
        )
        self.connection.query(
            f"INSERT INTO {self.table} ({self.column}, status, priority, version) VALUES (%s, 'reserved', 0, %s)",
            args=(self.key[self.column], self.attempt),
        )

    @property
    def hold(self) -> dict[str, Any]:
        """The arguments of `Heartbeat.hold`."""
        return {
            "jobs_table": self.table,
            "key": self.key,
            "attempts_table": self.attempts,
            "attempt_id": self.attempt,
        }

    def set(self, assignments: str) -> None:
        self.connection.query(f"UPDATE {self.table} SET {assignments} WHERE {self.column} = '{self.key[self.column]}'")

    def delete(self) -> None:
        self.connection.query(f"DELETE FROM {self.table} WHERE {self.column} = '{self.key[self.column]}'")

    def column_value(self, expression: str) -> Any:
        query = f"SELECT {expression} FROM {self.table} WHERE {self.column} = '{self.key[self.column]}'"
        return self.connection.query(query).fetchone()[0]

    def attempt_row(self) -> tuple[Any, ...]:
        query = f"SELECT attempt_epoch, attempt_step, attempt_loss FROM {self.attempts}"
        return tuple(self.connection.query(query).fetchone())

    def beat(self) -> Any:
        return self.column_value("reserved_time")

    def age(self) -> float:
        """Seconds since the last beat, by the database's clock."""
        return float(self.column_value(SECONDS_AGO[self.database.backend].format("reserved_time")))


@pytest.fixture
def job(session: Session) -> Iterator[Job]:
    job = Job(session)
    yield job
    job.connection.close()


@pytest.fixture
def postgres_job(postgres_session: Session) -> Iterator[Job]:
    job = Job(postgres_session)
    yield job
    job.connection.close()


@pytest.fixture
def make_heartbeat() -> Iterator[Callable[..., Heartbeat]]:
    made: list[Heartbeat] = []

    def make(job: Job, **options: Any) -> Heartbeat:
        made.append(Heartbeat(job.database, **{"interval": INTERVAL, "stall_limit": 600.0, **options}))
        return made[-1]

    yield make
    for heartbeat in made:
        heartbeat.close()


@pytest.fixture
def held(job: Job, make_heartbeat: Callable[..., Heartbeat]) -> Lease:
    """The job, held by this process."""
    return make_heartbeat(job).hold(**job.hold)


class Holder:
    """Another process that holds a job."""

    def __init__(self, job: Job, interval: float = INTERVAL) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HOLDER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HOLDER.parents[2])},
        )
        database = {**job.database.model_dump(exclude={"password"}), "password": ""}
        self.say(json.dumps({"database": database, "interval": interval, "hold": job.hold}))
        self.side = psutil.Process(self.hear())

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, command: str) -> Any:
        self.say(command)
        return self.hear()

    def has_spoken(self) -> bool:
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def holder(job: Job) -> Iterator[Holder]:
    holder = Holder(job)
    yield holder
    holder.end()


def beats_on(job: Job, times: int = 3, meanwhile: Callable[[], Any] = lambda: None) -> bool:
    """Whether the lease is renewed several times more; `meanwhile` is called while that is awaited."""
    for _ in range(times):
        before = job.beat()

        def renewed(before: Any = before) -> bool:
            meanwhile()
            return bool(job.beat() is not None and job.beat() != before)

        if not wait_until(renewed, LIMIT):
            return False
    return True


def falls_silent(job: Job) -> bool:
    return wait_until(lambda: job.age() > QUIET, LIMIT)


def loses(lease: Lease, reason: str) -> bool:
    return wait_until(lambda: lease.lost == reason, LIMIT)


def test_a_lease_is_renewed_by_the_database_clock(job: Job, held: Lease) -> None:
    assert beats_on(job)
    assert wait_until(lambda: 0 <= job.age() < LIMIT, LIMIT)
    assert held.lost is None


def test_the_time_zone_of_the_connection_does_not_matter(
    job: Job, make_heartbeat: Callable[..., Heartbeat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    if job.database.backend == "mysql":
        job.connection.query("SET GLOBAL time_zone = '+09:00'")
    try:
        make_heartbeat(job).hold(**job.hold)
        assert beats_on(job)
        assert wait_until(lambda: 0 <= job.age() < LIMIT, LIMIT)
    finally:
        if job.database.backend == "mysql":
            job.connection.query("SET GLOBAL time_zone = 'SYSTEM'")


def test_two_beats_in_one_millisecond_are_two_beats(job: Job, make_heartbeat: Callable[..., Heartbeat]) -> None:
    lease = make_heartbeat(job, interval=0.0).hold(**job.hold)
    assert beats_on(job, 20)
    assert lease.lost is None


def test_a_beat_tells_the_attempt_how_far_the_training_is(job: Job, held: Lease) -> None:
    assert beats_on(job)
    assert job.attempt_row() == (7, 0, None)  # nothing is said before there is something to say
    held.epoch(8, 0.25)
    held.progress(9, 1234)
    assert wait_until(lambda: job.attempt_row() == (9, 1234, 0.25), LIMIT)
    held.epoch(9, float("inf"))
    assert wait_until(lambda: job.attempt_row() == (9, 1234, None), LIMIT)
    same = f"SELECT 1 FROM {job.attempts} AS a, {job.table} AS j WHERE a.attempt_beat = j.reserved_time"
    assert wait_until(lambda: job.connection.query(same).fetchone() is not None, LIMIT)


def test_an_attempt_that_is_not_there_does_not_cost_the_lease(job: Job, held: Lease) -> None:
    job.connection.query(f"DELETE FROM {job.attempts}")
    assert beats_on(job)
    assert held.lost is None


def test_beats_go_on_while_a_c_call_holds_the_gil(job: Job, holder: Holder) -> None:
    assert holder.ask("sleep") == "in C"
    assert beats_on(job)
    assert not holder.has_spoken()


def test_the_side_process_dies_with_a_killed_worker_whose_children_live_on(job: Job) -> None:
    holder = Holder(job, interval=600.0)  # it is not the next beat that finds out
    child = psutil.Process(holder.ask("fork"))
    try:
        assert wait_until(lambda: job.beat() is not None, LIMIT)
        holder.end()
        assert wait_until(lambda: has_gone(holder.side), LIMIT)
        assert not has_gone(child)
    finally:
        child.kill()


def test_a_stopped_trainer_is_not_kept_alive_and_one_that_goes_on_is(job: Job, holder: Holder) -> None:
    assert beats_on(job)
    holder.process.send_signal(signal.SIGSTOP)
    assert falls_silent(job)
    holder.process.send_signal(signal.SIGCONT)
    assert beats_on(job)
    assert holder.ask("lost") is None


@pytest.mark.parametrize("with_side_process", [False, True], ids=["trainer", "group"])
def test_who_wakes_up_after_a_takeover_notices_it_and_harms_nobody(
    job: Job, holder: Holder, with_side_process: bool
) -> None:
    assert beats_on(job)
    holder.process.send_signal(signal.SIGSTOP)
    if with_side_process:
        holder.side.send_signal(signal.SIGSTOP)
    assert falls_silent(job)
    job.set("version = 'another attempt', reserved_time = '2001-01-01 00:00:00'")
    holder.process.send_signal(signal.SIGCONT)
    holder.side.send_signal(signal.SIGCONT)
    assert wait_until(lambda: holder.ask("lost") == "taken", LIMIT)
    assert job.beat().year == 2001


def test_signals_to_all_processes_of_a_job_leave_the_beats_to_the_worker(job: Job, holder: Holder) -> None:
    assert beats_on(job)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        holder.side.send_signal(number)
    assert beats_on(job)
    assert not has_gone(holder.side)
    assert os.getsid(holder.side.pid) == holder.side.pid


def test_a_training_without_progress_is_not_kept_alive(job: Job, make_heartbeat: Callable[..., Heartbeat]) -> None:
    lease = make_heartbeat(job, stall_limit=5 * INTERVAL).hold(**job.hold)
    assert beats_on(job, meanwhile=lambda: lease.progress(1, 1))
    assert falls_silent(job)
    assert lease.lost is None
    assert lease.age() > 5 * INTERVAL
    assert beats_on(job, meanwhile=lambda: lease.progress(1, 1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda job: job.set("version = 'another attempt'"), "taken"),
        (lambda job: job.set("status = 'pending'"), "taken"),
        (lambda job: job.set("status = 'ignore'"), "cancelled"),
        (lambda job: job.delete(), "gone"),
    ],
    ids=["another attempt", "given back", "cancelled", "deleted"],
)
def test_a_lost_lease_is_told_with_its_reason(
    job: Job, held: Lease, change: Callable[[Job], None], reason: str
) -> None:
    assert beats_on(job, 1)
    assert held.lost is None
    change(job)
    assert loses(held, reason)
    assert wait_until(lambda: held.age() > QUIET, LIMIT)


def test_the_side_process_serves_one_task_after_the_other(job: Job, make_heartbeat: Callable[..., Heartbeat]) -> None:
    heartbeat = make_heartbeat(job)
    with heartbeat.hold(**job.hold) as first:
        assert beats_on(job)
        with pytest.raises(PipelineError, match="one task at a time"):
            heartbeat.hold(**job.hold)
        job.set("status = 'ignore'")
        assert loses(first, "cancelled")
    side = heartbeat.process_id
    job.set("status = 'reserved'")
    second = heartbeat.hold(**job.hold)
    first.progress(50, 50)  # too late to be heard
    assert beats_on(job)
    assert second.lost is None
    assert job.attempt_row()[0] == 7
    assert heartbeat.process_id == side


def test_a_closed_lease_is_not_renewed(job: Job, held: Lease) -> None:
    assert beats_on(job)
    held.close()
    assert falls_silent(job)


def test_the_age_counts_from_the_last_confirmed_beat(job: Job, make_heartbeat: Callable[..., Heartbeat]) -> None:
    lease = make_heartbeat(job).hold(**job.hold, since=0.0)
    assert wait_until(lambda: lease.age() < QUIET, LIMIT)
    job.connection.query(f"DELETE FROM {job.table}")
    assert wait_until(lambda: lease.age() > QUIET, LIMIT)


def test_beats_go_on_over_a_new_connection_when_theirs_is_killed(job: Job, held: Lease) -> None:
    assert beats_on(job)
    for _ in range(2):
        assert kill_other_connections(job) > 0
        assert beats_on(job)
    assert held.lost is None


def kill_other_connections(job: Job) -> int:
    """End every connection to the server but the job's; how many there were."""
    if job.database.backend == "postgresql":
        found = job.connection.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'trainloom heartbeat'"
        ).fetchall()
        return len(found)
    others = job.connection.query(
        "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND user = 'root'"
    ).fetchall()
    for (number,) in others:
        job.connection.query(f"KILL CONNECTION {number}")
    return len(others)


def test_beats_go_on_after_a_restart_of_the_server(
    postgres_session: Session, postgres_job: Job, make_heartbeat: Callable[..., Heartbeat]
) -> None:
    lease = make_heartbeat(postgres_job).hold(**postgres_job.hold)
    assert beats_on(postgres_job)
    server = PostgresServer(postgres_session.home)
    server.stop()
    try:
        assert wait_until(lambda: lease.age() > QUIET, LIMIT)
    finally:
        server.ensure_running()
    assert beats_on(postgres_job)
    assert wait_until(lambda: lease.age() < QUIET, LIMIT)
    assert lease.lost is None


def test_a_killed_side_process_is_started_again(job: Job, make_heartbeat: Callable[..., Heartbeat]) -> None:
    heartbeat = make_heartbeat(job)
    lease = heartbeat.hold(**job.hold)
    for poll in (lambda: lease.progress(1, 1), lambda: lease.lost):
        assert beats_on(job)
        side = heartbeat.process_id
        assert side is not None
        os.kill(side, signal.SIGKILL)
        assert beats_on(job, meanwhile=poll)
        assert heartbeat.process_id != side
    assert lease.lost is None


def test_a_forked_child_neither_speaks_for_its_parent_nor_ends_its_lease(
    job: Job, make_heartbeat: Callable[..., Heartbeat]
) -> None:
    heartbeat = make_heartbeat(job)
    lease = heartbeat.hold(**job.hold)
    child = os.fork()
    if child == 0:
        lease.progress(66, 66)
        lease.epoch(66, 6.6)
        lease.close()
        heartbeat.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert beats_on(job)
    assert job.attempt_row() == (7, 0, None)


def test_closing_ends_the_side_process(job: Job, make_heartbeat: Callable[..., Heartbeat]) -> None:
    heartbeat = make_heartbeat(job)
    lease = heartbeat.hold(**job.hold)
    assert heartbeat.process_id is not None
    side = psutil.Process(heartbeat.process_id)
    heartbeat.close()
    heartbeat.close()
    assert has_gone(side)
    lease.progress(1, 1)
    assert lease.lost is None
    with pytest.raises(PipelineError, match="closed"):
        heartbeat.hold(**job.hold)


def test_the_side_process_is_small_and_shows_no_secret(
    postgres_job: Job, make_heartbeat: Callable[..., Heartbeat], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "open-sesame-4711"
    monkeypatch.setenv("PGPASSWORD", secret)
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", f"postgresql://me:{secret}@host/name")
    postgres_job.database = Database(**{**postgres_job.database.model_dump(), "password": secret})
    heartbeat = make_heartbeat(postgres_job)
    heartbeat.hold(**postgres_job.hold)
    assert beats_on(postgres_job)
    folder = Path(f"/proc/{heartbeat.process_id}")
    assert b"heartbeat_process" in (folder / "cmdline").read_bytes()
    for name in ("cmdline", "environ"):
        assert secret.encode() not in (folder / name).read_bytes()
    libraries = (folder / "maps").read_text()
    assert "psycopg2" in libraries
    for heavy in ("torch", "numpy", "pydantic"):
        assert heavy not in libraries


def test_no_random_state_is_touched(job: Job, make_heartbeat: Callable[..., Heartbeat]) -> None:
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]
    heartbeat = make_heartbeat(job)
    lease = heartbeat.hold(**job.hold)
    assert beats_on(job, meanwhile=lambda: lease.progress(1, 1))
    assert heartbeat.process_id is not None
    os.kill(heartbeat.process_id, signal.SIGKILL)
    assert beats_on(job, meanwhile=lambda: lease.progress(1, 1))
    lease.close()
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]
    assert after == before
