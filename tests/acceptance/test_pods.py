"""A rendered Job, its pods simulated by processes, on real servers that they reach by URL."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from k8s.render import render
from k8s.values import Group, Secret, Values
from pipeline.services import MongoServer, PostgresServer
from pipeline.session import Session
from schemas.attempt import Attempt
from tests.integration.small_tasks import SHUFFLED, insert
from tests.pod_simulator import JobSimulator, namespaces_allowed
from trainloom import TrainingResult

SLOTS, TASKS = 6, 30
IMAGE = f"registry.example/trainloom@sha256:{'0' * 64}"
DATABASE = "trainloom-database"
LONG = {**SHUFFLED, "epoch_limit": 100_000, "trainer_class_params": {"parameter_history": False}}


@pytest.fixture
def secrets(server_home: Any) -> dict[str, dict[str, str]]:
    """The addresses of the embedded servers, as a Secret holds them."""
    postgres, mongo = PostgresServer(server_home).ensure_running(), MongoServer(server_home).ensure_running()
    url = f"postgresql://{postgres.user}@{quote(str(postgres.socket_dir), safe='')}:{postgres.port}/{postgres.dbname}"
    return {DATABASE: {"database-url": url, "mongo-url": mongo.url}}


@pytest.fixture
def rendered(project_environment: dict[str, str]) -> Any:
    """Renders the objects of so many workers of the test's project."""

    def objects(workers: int, grace: int = 30, misconfigured: Any = "FailIndex", **settings: Any) -> list[Any]:
        keys = {"TRAINLOOM_DATABASE_URL": "database-url", "TRAINLOOM_MONGO_URL": "mongo-url"}
        project = project_environment["TRAINLOOM_PROJECT"]
        common = {"project": project, "mongo_database": project, "torch_threads": 1, "poll_seconds": 0.5}
        return render(
            Values(
                name="lab",
                image=IMAGE,
                settings={**common, **settings},
                secrets=(Secret(name=DATABASE, env=keys),),
                worker=Group(workers=workers, grace_seconds=grace, misconfigured=misconfigured),
            )
        )

    return objects


def running_in() -> dict[str, str]:
    """Pods that train, and the attempts that they are at."""
    rows = (Attempt() & "attempt_outcome = 'running'").proj("attempt_pod").to_dicts()
    return {row["attempt_pod"]: row["attempt_id"] for row in rows}


@pytest.mark.slow
@pytest.mark.feature("S18")
def test_six_slots_finish_thirty_tasks_while_half_of_the_pods_are_evicted(
    postgres_session: Session, rendered: Any, secrets: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    keys = insert(postgres_session, seeds=range(TASKS))
    job = JobSimulator.of(rendered(SLOTS), secrets, tmp_path / "pods")
    evicted = []

    def evict(simulated: JobSimulator) -> None:
        if len(evicted) == SLOTS // 2:
            return
        busy = running_in()
        for pod in simulated.running[: SLOTS // 2]:
            if pod.index < SLOTS // 2 and pod.name in busy and pod.index not in {one.index for one in evicted}:
                simulated.evict(pod)
                evicted.append(pod)

    assert job.run(evict) == "Complete"
    assert [pod.code for pod in evicted] == [143] * (SLOTS // 2), [pod.said for pod in evicted]
    assert sorted(pod.code for pod in job.pods) == [0] * SLOTS + [143] * (SLOTS // 2)
    assert len(TrainingResult()) == len(keys) == TASKS
    assert TrainingResult().jobs.to_dicts() == []
    attempts = Attempt().to_dicts()
    outcomes = Counter(row["attempt_outcome"] for row in attempts)
    assert outcomes["finished"] == TASKS
    assert outcomes["preempted"] <= len(evicted)
    assert outcomes.total() == outcomes["finished"] + outcomes["preempted"]
    assert {row["attempt_pod"] for row in attempts} <= {pod.name for pod in job.pods}
    nodes = {row["attempt_id"]: row for row in Attempt.Pod().to_dicts()}
    assert {row["pod_node"] for row in nodes.values()} == {"node-0", "node-1"}
    assert {(row["pod_namespace"], row["pod_image"]) for row in nodes.values()} == {("simulated", IMAGE)}


@pytest.fixture
def long_job(
    postgres_session: Session, rendered: Any, secrets: dict[str, dict[str, str]], tmp_path: Path
) -> Iterator[JobSimulator]:
    """A pod at a training that does not end by itself."""
    insert(postgres_session, seeds=[0], training=LONG)
    yield JobSimulator.of(rendered(1), secrets, tmp_path / "pods")


@pytest.mark.slow
@pytest.mark.feature("S18")
def test_a_pod_that_is_told_to_stop_gives_its_task_back_and_exits_143(long_job: JobSimulator) -> None:
    long_job.job["spec"]["backoffLimitPerIndex"] = 0
    probed: list[tuple[int, str]] = []

    def stop(simulated: JobSimulator) -> None:
        (pod, *_) = [*simulated.running, None]
        if pod is not None and pod.name in running_in() and not probed:
            told = pod.run(simulated.probe)
            probed.append((told.returncode, told.stderr))
            pod.terminate(60)  # by whom, nobody says: it counts

    assert long_job.run(stop) == "Failed: FailedIndexes"
    (pod,) = long_job.pods
    assert pod.code == 143, pod.said
    assert probed == [(0, "")]
    (attempt,) = Attempt().to_dicts()
    assert attempt["attempt_outcome"] == "preempted"
    assert (TrainingResult().jobs).fetch1("status") == "pending"
    if namespaces_allowed():
        assert attempt["attempt_host"] == pod.name != platform.node()


def test_a_wrong_configuration_of_all_workers_ends_the_job_after_one_pod_each(
    rendered: Any, secrets: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    job = JobSimulator.of(rendered(2, lease_seconds=1), secrets, tmp_path / "pods")
    assert job.run() == "Failed: FailedIndexes"
    assert [pod.code for pod in job.pods] == [78, 78]
    assert "lease_seconds must be at least twice heartbeat_seconds" in job.pods[0].said


def test_a_wrong_configuration_ends_the_job_at_once_where_that_is_asked_for(
    rendered: Any, secrets: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    objects = rendered(2, misconfigured="FailJob", lease_seconds=1)
    job = JobSimulator.of(objects, secrets, tmp_path / "pods")
    assert job.run() == "Failed: PodFailurePolicy"
    assert 78 in {pod.code for pod in job.pods} <= {78, 143}
    assert len(job.pods) == 2


@pytest.mark.slow
@pytest.mark.feature("S18")
def test_a_pod_that_lacks_something_ends_no_healthy_worker(
    postgres_session: Session, rendered: Any, secrets: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    keys = insert(postgres_session, seeds=range(2))
    job = JobSimulator.of(rendered(2), secrets, tmp_path / "pods")
    job.spoiled[0] = {"TRAINLOOM_LEASE_SECONDS": "1"}
    assert job.run() == "Failed: FailedIndexes"
    assert {(pod.index, pod.code) for pod in job.pods} == {(0, 78), (1, 0)}
    assert len(TrainingResult()) == len(keys)


def test_a_pod_without_addresses_of_servers_says_so(rendered: Any, tmp_path: Path) -> None:
    job = JobSimulator.of(rendered(1), {DATABASE: {"database-url": "", "mongo-url": ""}}, tmp_path / "pods")
    assert job.run() == "Failed: FailedIndexes"
    assert [pod.code for pod in job.pods] == [78], job.pods[0].said
