"""`trainloom k8s` against a cluster: submitted, looked at, followed, scaled and deleted from the command line.

The cluster is a small API server over real HTTP, the commands are processes, the database is the embedded one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.render import render
from k8s.values import Values
from pipeline.claim import Worker
from pipeline.cli.k8s_cluster import Tasks
from pipeline.cli.main import build_parser, main
from pipeline.pod_tasks import Demand
from pipeline.queue import Queue
from schemas.attempt import Attempt
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask
from tests.fake_cluster import JOBS, NAMESPACE, PODS, TOKEN, FakeCluster, Fault
from tests.integration.digits_tasks import insert_tasks, training
from trainloom import connect

COMMAND = [sys.executable, "-m", "pipeline.cli.main"]
ROOT = str(Path(__file__).parents[2])
VALUES = {
    "image": "registry.example/lab@sha256:" + "0" * 64,
    "worker": {"workers": 3},
    "secrets": [{"name": "databases", "env": {"TRAINLOOM_DATABASE_URL": "database", "TRAINLOOM_MONGO_URL": "mongo"}}],
}
COMPLETE = {"conditions": [{"type": "Complete", "status": "True"}]}
UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/5 nodes are available: 5 Insufficient nvidia.com/gpu.",
}
OOM = {"name": "worker", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a values file and without a home."""
    monkeypatch.chdir(tmp_path)
    write_values(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ROOT)


def write_values(folder: Path, **changes: Any) -> None:
    (folder / "values.yaml").write_text(yaml.safe_dump({**VALUES, **changes}))


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which is killed at the end where it has not ended."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


Command = Callable[..., tuple[str, str]]


@pytest.fixture
def k8s(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process; what it prints on standard output and standard error."""

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        found = main(["k8s", *arguments])
        told = capsys.readouterr()
        assert found == code, told.out + told.err
        assert TOKEN not in told.out + told.err
        return told.out, told.err

    return run


@pytest.fixture
def submit(k8s: Command) -> Callable[..., str]:
    """Submits what the values file says; what is printed."""
    return lambda *arguments: k8s("submit", "-f", "values.yaml", *arguments)[0]


def bring(cluster: FakeCluster, **changes: Any) -> dict[str, Any]:
    """What `submit` makes of the values file, without asking; the last Job."""
    values = Values.load(Path("values.yaml"), {"namespace": NAMESPACE, **changes})
    for manifest in render(values):
        if manifest["kind"] != "Secret":
            cluster.put(f"{manifest['kind'].lower()}s", manifest)
    return manifest


def claim(host: str, pod: str = "") -> dict[str, str]:
    """The key of a training that a worker there holds from now on; in a session."""
    queue = Queue(TrainingResult(), Worker(host=host))
    queue.enqueue()
    claimed = queue.claim()
    assert claimed is not None
    Attempt().update1({"attempt_id": claimed.attempt, "attempt_pod": pod})
    return claimed.key


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return line.rstrip("\n")


def kinds(cluster: FakeCluster) -> list[str]:
    return sorted(plural for plural, _ in cluster.objects)


# Submission


@pytest.mark.feature("S19")
def test_workers_are_submitted_and_it_is_said_what_happens(
    fake_cluster: FakeCluster, submit: Callable[..., str]
) -> None:
    told = submit()
    assert "3 workers (trainloom) for the namespace lab of the context 'lab-context'" in told
    assert "how many tasks wait is not known (no database is set" in told
    assert "Job/trainloom: created" in told
    job = fake_cluster.objects[JOBS, "trainloom"]
    assert (job["spec"]["completions"], job["metadata"]["namespace"]) == (3, NAMESPACE)
    assert kinds(fake_cluster) == ["configmaps", "jobs", "rolebindings", "roles", "serviceaccounts", "serviceaccounts"]
    made = [request for request in fake_cluster.requests if request.method == "POST"]
    assert all(request.query["fieldValidation"] == "Strict" for request in made)
    assert [request.query.get("dryRun") for request in made] == ["All"] * 6 + [None] * 6
    assert made[-1].path == f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"


def test_a_dry_run_asks_the_server_and_makes_nothing(fake_cluster: FakeCluster, submit: Callable[..., str]) -> None:
    assert "the server would take all of it; nothing was made" in submit("--dry-run")
    assert fake_cluster.objects == {}
    found = json.loads(submit("--dry-run", "--json"))
    assert (found["workers"], found["waiting"], found["objects"]) == ({"trainloom": 3}, None, [])


def test_what_the_lint_finds_reaches_no_server(fake_cluster: FakeCluster, k8s: Command, tmp_path: Path) -> None:
    (tmp_path / "patch.yaml").write_text(
        yaml.safe_dump(
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "trainloom"}, "spec": {"completions": None}}
        )
    )
    told, errors = k8s("submit", "-f", "values.yaml", "--patch", "patch.yaml", code=1)
    assert "Job/trainloom" in errors
    assert told == ""
    assert fake_cluster.requests == []


def test_an_object_that_is_refused_leaves_nothing_behind(fake_cluster: FakeCluster, k8s: Command) -> None:
    fake_cluster.denied = {("create", "jobs")}
    _, errors = k8s("submit", "-f", "values.yaml", code=1)
    assert 'Job/trainloom is refused, nothing was made: jobs.batch is forbidden: User "alice" cannot create' in errors
    assert fake_cluster.objects == {}


def test_what_was_made_is_taken_back_where_the_rest_fails(
    fake_cluster: FakeCluster, k8s: Command, tmp_path: Path
) -> None:
    write_values(tmp_path, groups={"first": {"workers": 1}, "second": {"workers": 2}})
    fake_cluster.refused_after = ("trainloom-second", 422)
    _, errors = k8s("submit", "-f", "values.yaml", code=1)
    assert "Job/trainloom-second could not be made (" in errors
    assert "nothing was left" in errors
    assert fake_cluster.objects == {}
    fake_cluster.refused_after = ("trainloom-second", 422)
    fake_cluster.denied = {("delete", "jobs")}
    _, errors = k8s("submit", "-f", "values.yaml", code=1)
    assert "Job/trainloom-first is there (`trainloom k8s delete` removes all of it)" in errors
    assert kinds(fake_cluster) == ["jobs"]


def test_a_job_that_is_there_is_not_touched_and_one_that_has_ended_is_replaced(
    fake_cluster: FakeCluster, k8s: Command, submit: Callable[..., str]
) -> None:
    submit()
    first = fake_cluster.objects[JOBS, "trainloom"]["metadata"]["uid"]
    _, errors = k8s("submit", "-f", "values.yaml", "--replace", code=1)
    assert "the Job trainloom is there already and has 3 workers; change their number with" in errors
    fake_cluster.put(JOBS, {**fake_cluster.objects[JOBS, "trainloom"], "status": COMPLETE})
    _, errors = k8s("submit", "-f", "values.yaml", code=1)
    assert "has ended (Complete); give --replace to delete it first" in errors
    told = submit("--replace", "--set", "settings.poll_seconds=2")
    assert "ConfigMap/trainloom: changed" in told
    assert "ServiceAccount/trainloom: unchanged" in told
    assert fake_cluster.objects[JOBS, "trainloom"]["metadata"]["uid"] != first
    assert fake_cluster.objects["configmaps", "trainloom"]["data"]["TRAINLOOM_POLL_SECONDS"] == "2"
    fake_cluster.put(JOBS, {**fake_cluster.objects[JOBS, "trainloom"], "status": COMPLETE})
    submit("--replace")
    assert "TRAINLOOM_POLL_SECONDS" not in fake_cluster.objects["configmaps", "trainloom"]["data"]


def test_who_may_only_submit_jobs_leaves_the_rest_to_an_administrator(
    fake_cluster: FakeCluster, k8s: Command, submit: Callable[..., str]
) -> None:
    plurals = ("configmaps", "serviceaccounts", "roles", "rolebindings")
    fake_cluster.denied = {("create", plural) for plural in plurals}
    _, errors = k8s("submit", "-f", "values.yaml", code=1)
    assert "ConfigMap/trainloom could not be made" in errors
    fake_cluster.denied |= {("get", plural) for plural in plurals}
    told = submit()
    assert "ConfigMap/trainloom: left to an administrator" in told
    assert kinds(fake_cluster) == ["jobs"]


@pytest.mark.feature("S19")
def test_as_many_workers_come_as_tasks_wait(
    fake_cluster: FakeCluster, k8s: Command, submit: Callable[..., str], project_environment: dict[str, str]
) -> None:
    with connect() as session:
        insert_tasks(session, training(), seeds=range(5))
    told = submit("--workers", "auto")
    assert told.startswith("5 tasks wait, 0 run; 5 workers (trainloom) for the namespace lab")
    assert fake_cluster.objects[JOBS, "trainloom"]["spec"]["completions"] == 5
    told = submit("--workers", "auto", "--max-workers", "2", "--dry-run", "--set", "name=other")
    assert "2 workers (other)" in told
    with connect():
        TrainingTask().delete(prompt=False)
    told, errors = k8s("submit", "-f", "values.yaml", "--workers", "auto")
    assert (told, errors) == ("", "no task waits, so no worker is brought\n")


def test_what_stays_here_is_said_once_though_the_values_are_read_twice(
    fake_cluster: FakeCluster, k8s: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_values(tmp_path, secrets=None)
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", "postgresql://me:hunter2@db.example/lab")
    monkeypatch.setattr(Tasks, "demand", lambda _: Demand(pending=5, retry=0, running=0))
    told, errors = k8s("submit", "-f", "values.yaml", "--workers", "auto", "--dry-run")
    assert "5 workers (trainloom)" in told
    assert errors == "database_url holds a password and stays here; pods get it from a Secret\n"


def test_how_many_workers_cannot_be_told_without_a_database(fake_cluster: FakeCluster, k8s: Command) -> None:
    _, errors = k8s("submit", "-f", "values.yaml", "--workers", "auto", code=1)
    assert "--workers auto counts the waiting tasks, and they are not known: no database is set" in errors
    assert fake_cluster.requests == []


# Looking


@pytest.mark.feature("S19")
def test_the_status_says_why_pods_wait_and_died_and_which_tasks_they_are_at(
    fake_cluster: FakeCluster, k8s: Command, project_environment: dict[str, str]
) -> None:
    job = bring(fake_cluster, **{"worker.workers": 4})
    named, hosted = fake_cluster.add_pod("trainloom", 0), fake_cluster.add_pod("trainloom", 1)
    fake_cluster.add_pod("trainloom", 2, "Failed", containerStatuses=[OOM])
    fake_cluster.add_pod("trainloom", 2, "Pending", conditions=[UNSCHEDULABLE])
    fake_cluster.add_event(job, "FailedCreate", 'pods "trainloom-2-" is forbidden: violates PodSecurity "restricted"')
    names = [pod["metadata"]["name"] for pod in (named, hosted)]
    with connect() as session:
        insert_tasks(session, training(epoch_limit=4), seeds=range(3))
        claims = [claim("trainloom-0", names[0]), claim("trainloom-1")]

    found = json.loads(k8s("status", "--json")[0])
    assert found["tasks"]["trainings"] == {**found["tasks"]["trainings"], "pending": 1, "running": 2}
    (shown,) = found["jobs"]
    assert (shown["workers"], shown["pods"]) == (4, {"Failed": 1, "Pending": 1, "Running": 2})
    tasks = {pod["name"]: [task["task"] for task in pod["tasks"]] for pod in found["pods"]}
    assert [tasks[name] for name in names] == [[*claimed.values()] for claimed in claims]
    assert [(pod["phase"], pod["reason"], pod["exit_code"]) for pod in found["pods"] if pod["index"] == 2] == [
        ("Failed", "OOMKilled", 137),
        ("Pending", "Unschedulable", None),
    ]
    assert found["warnings"][0]["reason"] == "FailedCreate"

    told, errors = k8s("status")
    assert errors == ""
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert "trainloom Active 4 0 0 1 Failed, 1 Pending, 2 Running" in lines
    assert "trainloom: 1 pod Pending, Unschedulable: 0/5 nodes are available: 5 Insufficient nvidia.com/gpu." in lines
    assert "trainloom: 1 pod Failed, OOMKilled (exit 137): it used more memory than its limit" in lines
    assert any(line.startswith('trainloom: FailedCreate (3 times): pods "trainloom-2-" is forbidden') for line in lines)
    assert any(line.startswith(f"{names[0]} Running node-0") and "SimpleMLP 0/4" in line for line in lines)
    assert "trainings: 1 pending, 2 running" in lines


def test_without_a_database_the_pods_are_shown_alone(fake_cluster: FakeCluster, k8s: Command) -> None:
    bring(fake_cluster)
    fake_cluster.add_pod("trainloom", 0, containerStatuses=[{"name": "worker", "state": {"running": {}}}])
    told, errors = k8s("status")
    assert "1 Running" in told
    assert errors == "the tasks are not known: no database is set, and there is no home with one here or above\n"
    found = json.loads(k8s("status", "--json")[0])
    assert (found["tasks"], found["pods"][0]["tasks"]) == (None, None)


@pytest.mark.feature("S19")
def test_a_database_that_goes_away_is_said_and_asked_again(
    project_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError("connection refused")

    with ExitStack() as sessions:
        tasks = Tasks(build_parser().parse_args(["k8s", "status"]), sessions)
        assert tasks.held() == []
        connection = TrainingTask().connection
        with monkeypatch.context() as away:
            away.setattr(connection, "connect", refuse)
            connection._conn.close()
            assert tasks.held() is None
            # At once: the cluster is not to wait for the database.
            assert tasks.problem == "the database did not come back within 0 s: connection refused"
        assert tasks.held() == []
        assert tasks.problem == ""


def test_who_follows_the_queue_waits_for_a_database_that_goes_away(
    fake_cluster: FakeCluster, k8s: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(fake_cluster)
    answers = [Demand(pending=5, retry=0, running=0), None, None, Demand(pending=7, retry=0, running=0)]

    def demand(tasks: Tasks) -> Demand | None:
        found = answers.pop(0)
        tasks.problem = "" if found else "it is away"
        if not answers:
            fake_cluster.put(JOBS, {**fake_cluster.objects[JOBS, "trainloom"], "status": COMPLETE})
        return found

    monkeypatch.setattr(Tasks, "demand", demand)
    monkeypatch.setattr(Tasks, "held", lambda _: [])
    lines, errors = k8s("scale", "--follow", "--interval", "0.1")
    assert "trainloom: 5 workers instead of 3" in lines
    assert "trainloom: 7 workers instead of 5" in lines
    assert "trainloom has ended (Complete)" in lines
    assert errors == "--follow counts the tasks, and they are not known: it is away; it is tried again\n"


def test_a_pod_that_hangs_at_its_start_says_what_for(fake_cluster: FakeCluster, k8s: Command) -> None:
    bring(fake_cluster)
    creating = [{"name": "worker", "state": {"waiting": {"reason": "ContainerCreating"}}}]
    pod = fake_cluster.add_pod("trainloom", 0, "Pending", containerStatuses=creating)
    fake_cluster.add_event(pod, "FailedMount", 'secret "databases" not found')
    assert f'{pod["metadata"]["name"]}: FailedMount (3 times): secret "databases" not found' in k8s("status")[0]
    fake_cluster.denied = {("list", "events")}
    assert "why pods do not come is not known: events is forbidden" in k8s("status")[1]


@pytest.mark.feature("S19")
def test_the_status_follows_what_changes_over_broken_connections(fake_cluster: FakeCluster) -> None:
    bring(fake_cluster)
    with running("k8s", "status", "--watch", "--json") as process:
        assert json.loads(line_of(process))["pods"] == []
        pod = fake_cluster.add_pod("trainloom", 0)
        while not (found := json.loads(line_of(process)))["pods"]:
            pass
        assert found["pods"][0]["phase"] == "Running"
        fake_cluster.break_streams()
        fake_cluster.put(PODS, {**pod, "status": {"phase": "Failed", "reason": "Evicted"}})
        while (found := json.loads(line_of(process)))["pods"][0]["phase"] != "Failed":
            pass
        assert found["pods"][0]["reason"] == "Evicted"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_no_workers_is_said(fake_cluster: FakeCluster, k8s: Command) -> None:
    assert k8s("status")[0] == "no workers in the namespace lab of the context 'lab-context'\n"
    for command in (["logs"], ["scale", "2"], ["delete"]):
        _, errors = k8s(*command, code=1)
        assert (
            "there are no workers in the namespace lab of the context 'lab-context'; `trainloom k8s submit`" in errors
        )


# Logs


@pytest.mark.feature("S19")
def test_logs_of_all_pods_are_told_apart_and_those_of_one_are_bare(fake_cluster: FakeCluster, k8s: Command) -> None:
    bring(fake_cluster)
    old = fake_cluster.add_pod("trainloom", 0, "Failed")["metadata"]["name"]
    first = fake_cluster.add_pod("trainloom", 0)["metadata"]["name"]
    second = fake_cluster.add_pod("trainloom", 1)["metadata"]["name"]
    waiting = fake_cluster.add_pod("trainloom", 2, "Pending")["metadata"]["name"]
    fake_cluster.write(old, "it broke")
    fake_cluster.write(first, *(f"line {number}" for number in range(12)))
    fake_cluster.write(second, "π")
    told, errors = k8s("logs")
    assert told.splitlines() == [*(f"[{first}] line {number}" for number in range(2, 12)), f"[{second}] π"]
    assert errors.startswith(f"{waiting} has no log to show: container")
    assert k8s("logs", "trainloom-0", "--tail", "2")[0] == "line 10\nline 11\n"
    assert k8s("logs", old)[0] == "it broke\n"
    assert k8s("logs", "--previous")[0] == f"[{old}] it broke\n"
    _, errors = k8s("logs", "trainloom-", code=1)
    assert "several pods have names that begin with 'trainloom-'" in errors
    _, errors = k8s("logs", "nothing", code=1)
    assert "there is no pod whose name begins with 'nothing'" in errors


@pytest.mark.feature("S19")
def test_logs_are_followed_until_the_job_has_ended(fake_cluster: FakeCluster) -> None:
    bring(fake_cluster)
    pod = fake_cluster.add_pod("trainloom", 0)
    name = pod["metadata"]["name"]
    fake_cluster.write(name, "one")
    with running("k8s", "logs", "-f") as process:
        assert line_of(process) == f"[{name}] one"
        fake_cluster.break_streams()
        fake_cluster.write(name, "two")
        assert line_of(process) == f"[{name}] two"
        later = fake_cluster.add_pod("trainloom", 1)["metadata"]["name"]
        fake_cluster.write(later, "begun", ended=True)
        assert line_of(process) == f"[{later}] begun"
        fake_cluster.remove(PODS, later)
        fake_cluster.write(name, "end", ended=True)
        fake_cluster.put(PODS, {**pod, "status": {"phase": "Succeeded"}})
        fake_cluster.put(JOBS, {**fake_cluster.objects[JOBS, "trainloom"], "status": COMPLETE})
        told, errors = process.communicate(timeout=60)
        assert (told, errors, process.returncode) == (f"[{name}] end\n", "", 0)


def test_the_log_of_one_pod_is_followed_to_its_end(fake_cluster: FakeCluster, k8s: Command) -> None:
    bring(fake_cluster)
    pod = fake_cluster.add_pod("trainloom", 0)
    fake_cluster.add_pod("trainloom", 1)
    fake_cluster.write(pod["metadata"]["name"], "one", "two", ended=True)
    fake_cluster.put(PODS, {**pod, "status": {"phase": "Succeeded"}})
    assert k8s("logs", "-f", "trainloom-0")[0] == "one\ntwo\n"


# Scaling


@pytest.mark.feature("S19")
def test_a_job_is_given_another_number_of_workers(fake_cluster: FakeCluster, k8s: Command) -> None:
    bring(fake_cluster)
    assert k8s("scale", "5")[0] == "trainloom: 5 workers instead of 3\n"
    spec = fake_cluster.objects[JOBS, "trainloom"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["maxFailedIndexes"]) == (5, 5, 5)
    assert fake_cluster.asked("PATCH", "/jobs/trainloom")[0].body == {
        "spec": {"parallelism": 5, "completions": 5, "maxFailedIndexes": 5}
    }
    assert k8s("scale", "5")[0] == "trainloom has 5 workers already\n"
    assert "0 workers instead of 5; those that are stopped save and give" in k8s("scale", "0")[0]
    assert fake_cluster.objects[JOBS, "trainloom"]["spec"]["suspend"]


def test_one_of_several_groups_is_scaled_by_its_name(fake_cluster: FakeCluster, k8s: Command, tmp_path: Path) -> None:
    write_values(tmp_path, groups={"first": {"workers": 1}, "second": {"workers": 2}})
    bring(fake_cluster)
    _, errors = k8s("scale", "4", code=78)
    assert "choose with --group: first, second" in errors
    assert k8s("scale", "4", "--group", "second")[0] == "trainloom-second: 4 workers instead of 2\n"
    _, errors = k8s("scale", "4", "--group", "huge", code=1)
    assert "there is no group 'huge'" in errors
    write_values(tmp_path, name="another")
    bring(fake_cluster)
    _, errors = k8s("scale", "4", code=1)
    assert "workers of several names in the namespace lab of the context 'lab-context': another, trainloom" in errors
    assert k8s("scale", "4", "--values", "values.yaml")[0] == "another: 4 workers instead of 3\n"


@pytest.mark.feature("S19")
def test_the_number_of_workers_follows_the_queue(
    fake_cluster: FakeCluster, k8s: Command, project_environment: dict[str, str]
) -> None:
    bring(fake_cluster, **{"worker.workers": 1})
    pods = [fake_cluster.add_pod("trainloom", index)["metadata"]["name"] for index in range(3)]
    with connect() as session:
        insert_tasks(session, training(), seeds=range(4))
        claimed = claim("trainloom-2", pods[2])
    with running("k8s", "scale", "--follow", "--max", "6", "--patience", "0.3", "--interval", "0.1") as process:
        assert line_of(process) == "trainloom follows the queue with 1 to 6 workers, until Ctrl-C"
        assert line_of(process) == "trainloom: 4 workers instead of 1 (waiting tasks: 3, workers at one: 1)"
        fake_cluster.faults.append(Fault("GET", "/jobs/trainloom", when="before"))
        with connect():
            (TrainingTask() - claimed).delete(prompt=False)
        told = line_of(process)
        # Index 2 is at a task: no number below 3 leaves it alone.
        assert told.startswith(
            "trainloom: 3 workers instead of 4 (waiting tasks: 0, workers at one: 1); those that are"
        )
        assert fake_cluster.objects[JOBS, "trainloom"]["spec"]["completions"] == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "trainloom keeps the workers it has\n"
    fake_cluster.put(JOBS, {**fake_cluster.objects[JOBS, "trainloom"], "status": COMPLETE})
    assert "trainloom has ended (Complete), there is nothing left to follow" in k8s("scale", "--follow")[0]


def test_workers_that_fail_again_and_again_are_not_replaced_for_ever(
    fake_cluster: FakeCluster, k8s: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(fake_cluster)
    looks = iter(range(50))

    def demand(tasks: Tasks) -> Demand:
        """Three tasks wait, and with each look one worker more has failed for good, of all but one."""
        failed = f"1-{1 + next(looks)}"
        fake_cluster.put(JOBS, {**fake_cluster.objects[JOBS, "trainloom"], "status": {"failedIndexes": failed}})
        return Demand(pending=3, retry=0, running=0)

    monkeypatch.setattr(Tasks, "demand", demand)
    monkeypatch.setattr(Tasks, "held", lambda _: [])
    _, errors = k8s("scale", "--follow", "--interval", "0", "--max-failures", "4", code=1)
    assert errors == (
        "error: 5 workers in a row of the Job trainloom failed for good, the last at index 5, and no other came to its "
        "first task meanwhile: they are not replaced any more; see `trainloom k8s status` and `trainloom k8s logs`, or "
        "allow more with --max-failures\n"
    )
    assert fake_cluster.objects[JOBS, "trainloom"]["spec"]["completions"] == 3 + 4


# Deletion


@pytest.mark.feature("S19")
def test_workers_are_deleted_with_their_grace(fake_cluster: FakeCluster, k8s: Command) -> None:
    bring(fake_cluster)
    fake_cluster.put("secrets", {"metadata": {"name": "databases", "labels": {}}})
    pods = [fake_cluster.add_pod("trainloom", index)["metadata"]["name"] for index in range(2)]
    fake_cluster.terminates_at_once = False
    with running("k8s", "delete") as process:
        while (line := line_of(process)) != "2 workers save and give their tasks back":
            assert line.endswith(": deleted")
        (request,) = fake_cluster.asked("DELETE", "/jobs/trainloom")
        assert request.body["propagationPolicy"] == "Foreground"
        fake_cluster.remove(PODS, pods[0])
        assert line_of(process) == "1 worker saves and gives its task back"
        _, errors = k8s("submit", "-f", "values.yaml", code=1)
        assert "the Job trainloom is still being deleted" in errors
        fake_cluster.break_streams()
        fake_cluster.remove(PODS, pods[1])
        assert line_of(process) == "all workers have ended"
        assert process.wait(60) == 0
    assert kinds(fake_cluster) == ["secrets"]


def test_what_a_job_that_is_gone_has_left_is_deleted_by_name(fake_cluster: FakeCluster, k8s: Command) -> None:
    bring(fake_cluster)
    fake_cluster.remove(JOBS, "trainloom")
    fake_cluster.denied = {("delete", "roles"), ("list", "rolebindings")}
    told, errors = k8s("delete", "--name", "trainloom")
    assert "ConfigMap/trainloom: deleted" in told
    assert "as this user may not delete it: every RoleBinding, Role/trainloom-submitter" in errors
    assert kinds(fake_cluster) == ["rolebindings", "roles"]


# Doctor


@pytest.mark.feature("S19")
def test_the_doctor_finds_nothing_where_nothing_is_wrong(
    fake_cluster: FakeCluster, k8s: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cluster.put("secrets", {"metadata": {"name": "databases"}, "data": {"database": "aHVudGVyMg=="}})
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", "postgresql://me:hunter2@db.example:5432/lab")
    monkeypatch.setenv("TRAINLOOM_MONGO_URL", "mongodb://me:hunter2@m1.example,m2.example/?replicaSet=r")
    told, errors = k8s("doctor", "-f", "values.yaml")
    assert errors == ""
    assert {line[:4].strip() for line in told.splitlines()} == {"ok"}
    assert "Kubernetes v1.36.0 at http://127.0.0.1:" in told
    assert "this machine's mongodb is at m1.example, m2.example" in told
    assert "hunter2" not in told
    assert "aHVudGVyMg==" not in told


def test_the_doctor_says_what_is_wrong_and_what_to_do(
    fake_cluster: FakeCluster, k8s: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_cluster.namespace["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "restricted"}
    fake_cluster.denied = {("delete", "jobs"), ("create", "configmaps")}
    hard, used = {"pods": "4", "requests.cpu": "1"}, {"pods": "2", "requests.cpu": "0"}
    fake_cluster.put("resourcequotas", {"metadata": {"name": "lab"}, "status": {"hard": hard, "used": used}})
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", "postgresql://me:hunter2@localhost/lab")
    monkeypatch.setenv("TRAINLOOM_MONGO_URL", "mongodb://me:hunter2@%2Ftmp%2Fmongodb.sock/")
    write_values(tmp_path, secrets=[], worker={"workers": 3, "host_network": True})
    found = json.loads(k8s("doctor", "-f", "values.yaml", "--json", code=1)[0])
    said = {(check["name"], check["status"]): f"{check['message']}; {check['cure']}" for check in found}
    assert "lab admits pods of the security level restricted, which forbids host_network" in said["namespace", "fail"]
    assert "this user may not: delete jobs; have an administrator bind you" in said["rights", "fail"]
    assert "may not create a ConfigMap" in said["rights", "warn"]
    assert "pods 2 of 4 used, 3 wanted; requests.cpu 0 of 1 used, 6 wanted" in said["quota", "warn"]
    assert "this machine's database is at localhost, which in a pod is the pod itself" in said["database", "fail"]
    assert "behind a socket" in said["mongodb", "fail"]
    assert "nothing tells them of a mongodb" in said["pods", "fail"]
    assert "hunter2" not in json.dumps(found)


def test_the_doctor_says_what_it_may_not_see(fake_cluster: FakeCluster, k8s: Command) -> None:
    fake_cluster.denied = {("get", "namespaces"), ("get", "secrets"), ("list", "resourcequotas")}
    told, _ = k8s("doctor", "-f", "values.yaml")
    assert "this user may not look at the namespace lab, so its rules are not known" in told
    assert "this user may not look whether the Secret databases is there" in told
    assert "this user may not look at the quotas of the namespace" in told
    assert not fake_cluster.asked("GET", "/secrets/databases")


def test_the_doctor_tells_of_a_cluster_that_is_not_there(
    fake_cluster: FakeCluster, k8s: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    told, _ = k8s("doctor", code=1)
    assert "FAIL  cluster    there is no kube-config at" in told


# Secrets


@pytest.mark.parametrize("command", [["status"], ["submit", "-f", "values.yaml"], ["logs"], ["scale", "1"], ["doctor"]])
def test_nothing_secret_is_printed_also_when_things_go_wrong(
    fake_cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("TRAINLOOM_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/lab")
    fake_cluster.faults.append(Fault("GET", "", status=401, times=100))
    fake_cluster.faults.append(Fault("POST", "", status=401, times=100))
    told = subprocess.run([*COMMAND, "--debug", "k8s", *command], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "does not accept the credentials" in told.stderr + told.stdout
    assert ("Traceback" in told.stderr) is (command != ["doctor"])
    for secret in (TOKEN, "hunter2"):
        assert secret not in told.stdout + told.stderr
