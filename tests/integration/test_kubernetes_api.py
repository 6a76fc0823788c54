"""Clusters over real HTTP: what is asked, what is repeated, what is settled by reading back, and what is told.

The whole module runs with other versions of the client too: see `test_kubernetes_clients.py`.
"""

from __future__ import annotations

import json
import os
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import cluster, log_streams
from k8s.api import MARK, TRIES, Api, ApiError, Unreachable
from k8s.cluster import AccessError, Cluster
from k8s.log_streams import LogStreams
from k8s.permission import missing
from k8s.resource import EVENT, JOB, POD, ROLE, SECRET
from k8s.watched import Watched
from tests.fake_cluster import JOBS, NAMESPACE, PODS, TOKEN, FakeCluster, Fault

JOB_PATH = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"


def manifest(name: str = "work", workers: int = 2) -> dict[str, Any]:
    """A small Job of worker slots."""
    labels = {"app.kubernetes.io/managed-by": "trainloom", "app.kubernetes.io/component": "worker"}
    pod = {"restartPolicy": "Never", "containers": [{"name": "worker", "image": "busybox"}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "completionMode": "Indexed",
            "completions": workers,
            "parallelism": workers,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


@pytest.fixture
def pauses() -> list[float]:
    """How long the client of `api` would have waited."""
    return []


@pytest.fixture
def api(fake_cluster: FakeCluster, pauses: list[float]) -> Api:
    return Api(Cluster.load(), pauses.append)


# Access


def test_the_kubeconfig_says_where_and_who(fake_cluster: FakeCluster, api: Api) -> None:
    assert api.version() == "v1.36.0"
    assert (api.cluster.context, api.cluster.namespace) == ("lab-context", NAMESPACE)
    assert Cluster.load(namespace="other").namespace == "other"


def test_credentials_are_printed_nowhere(fake_cluster: FakeCluster, tmp_path: Path) -> None:
    content = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    content["clusters"][0]["cluster"]["server"] = fake_cluster.url.replace("//", "//alice:hunter2@")
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(content))
    found = Cluster.load()
    assert TOKEN not in f"{found!r} {found}"
    assert "hunter2" not in f"{found!r} {found.server}"


def test_wrong_credentials_are_said_and_not_shown(fake_cluster: FakeCluster, tmp_path: Path) -> None:
    fake_cluster.write_kubeconfig(tmp_path / "kubeconfig", token="wrong-token")
    with pytest.raises(ApiError, match="does not accept the credentials; log in again") as caught:
        Api(Cluster.load()).list(JOB)
    assert "wrong-token" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("users: [{name: u, user: {token: hunter2}}]\n", "has no current-context; choose .* with --context: none"),
        ("users: {hunter2: [\n", "is no valid YAML of a kube-config"),
        ("- hunter2\n", "is no valid YAML of a kube-config"),
        ("", "has no current-context"),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: gone, user: u}}]\n"
            "clusters: [{name: c, cluster: {server: 'https://h'}}]\nusers: [{name: u, user: {token: hunter2}}]\n",
            "cannot be used",
        ),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"
            "clusters: [{name: c, cluster: {server: 'https://h', certificate-authority: /gone}}]\n"
            "users: [{name: u, user: {token: hunter2}}]\n",
            "cannot be used",
        ),
    ],
)
def test_what_is_wrong_with_a_kubeconfig_is_said_without_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken").write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "broken"))
    with pytest.raises(AccessError, match=message) as caught:
        Cluster.load()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "hunter2" not in str(caught.value) + "".join(capfd.readouterr())


def test_contexts_are_chosen_by_name(fake_cluster: FakeCluster, tmp_path: Path) -> None:
    assert Cluster.load(context="lab-context").namespace == NAMESPACE
    with pytest.raises(AccessError, match="has no context 'prod'; .*: lab-context"):
        Cluster.load(context="prod")


def test_without_a_kubeconfig_it_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(AccessError, match="there is no kube-config at .*none; set KUBECONFIG or give --kubeconfig"):
        Cluster.load()


def test_a_credential_plugin_is_asked_and_its_failure_told(
    fake_cluster: FakeCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = tmp_path / "login"
    version = "client.authentication.k8s.io/v1"
    answer = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": {"token": TOKEN}})
    plugin.write_text(f"#!/bin/sh\necho '{answer}'\n")
    plugin.chmod(0o755)
    entry = {"apiVersion": version, "command": str(plugin)}
    fake_cluster.write_kubeconfig(tmp_path / "kubeconfig", exec=entry)
    assert Api(Cluster.load()).list(JOB).items == []

    plugin.write_text("#!/bin/sh\necho 'your session has expired: run login' >&2; exit 1\n")
    with pytest.raises(AccessError, match="credentials gave none: process returned 1. your session has expired"):
        Cluster.load()
    assert caplog.records == []


def test_a_credential_plugin_that_does_not_answer_is_given_up(
    fake_cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = tmp_path / "released"
    os.mkfifo(released)
    plugin = tmp_path / "login"
    plugin.write_text(f"#!/bin/sh\nread answer < {released}\necho {TOKEN} >&2\nexit 1\n")
    plugin.chmod(0o755)
    entry = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}
    fake_cluster.write_kubeconfig(tmp_path / "kubeconfig", exec=entry)
    monkeypatch.setattr(cluster, "CREDENTIALS_LIMIT", 0.5)
    said = "the credentials of the context 'lab-context' did not come within 0.5 s; see what the program waits for that"
    with pytest.raises(AccessError, match=said):
        Cluster.load()
    (left,) = [thread for thread in threading.enumerate() if thread.name == "credentials"]
    released.write_text("\n")  # what is said after that is shown nowhere either
    left.join()
    assert caplog.records == []


def test_credentials_that_are_not_renewed_in_time_are_given_up(
    fake_cluster: FakeCluster, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(cluster, "CREDENTIALS_LIMIT", 0.1)
    monkeypatch.setattr(api.cluster._configuration, "auth_settings", released.wait)
    try:
        with pytest.raises(AccessError, match="the credentials of the context 'lab-context' did not come within 0.1 s"):
            api.version()
    finally:
        released.set()


def test_credentials_that_cannot_be_renewed_are_said_and_not_shown(
    fake_cluster: FakeCluster, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError(f"the plugin answered {TOKEN}")

    monkeypatch.setattr(api.cluster._configuration, "auth_settings", fail)
    with pytest.raises(AccessError, match="'lab-context' cannot be renewed; log in again") as caught:
        api.version()
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_a_server_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = FakeCluster()
    monkeypatch.setenv("KUBECONFIG", str(gone.write_kubeconfig(tmp_path / "kubeconfig")))
    gone.close()
    with pytest.raises(Unreachable, match="the context 'lab-context' cannot be reached; see whether it runs"):
        Api(Cluster.load(), lambda _: None).version()


def test_a_server_without_tls_is_said(fake_cluster: FakeCluster, tmp_path: Path) -> None:
    content = (tmp_path / "kubeconfig").read_text()
    (tmp_path / "kubeconfig").write_text(content.replace("http://", "https://"))
    with pytest.raises(Unreachable, match="does not speak TLS; correct its address"):
        Api(Cluster.load(), lambda _: pytest.fail("it is of no use to try that again")).version()


def test_a_pod_reaches_its_cluster_with_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes.config import incluster_config

    for name, content in (("token", TOKEN), ("ca.crt", "none"), ("namespace", "lab")):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(cluster, "SERVICE_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr(cluster, "DEFAULT_CONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = Cluster.load()
    assert (found.server, found.context, found.namespace) == ("https://10.0.0.1:443", "in-cluster", "lab")
    (tmp_path / "token").unlink()
    with pytest.raises(AccessError, match="without a usable service account token"):
        Cluster.load()


# Requests


def test_objects_are_made_read_listed_changed_and_deleted(fake_cluster: FakeCluster, api: Api) -> None:
    made = api.create(manifest())
    assert made["metadata"]["uid"]
    (request,) = fake_cluster.asked("POST", "/jobs")
    assert (request.path, request.query) == (JOB_PATH, {"fieldValidation": "Strict"})
    sent = {**request.body, "metadata": {**request.body["metadata"]}}
    assert len(sent["metadata"].pop("annotations")[MARK]) == 16
    assert sent == manifest()

    assert (api.get(JOB, "work") or {})["spec"] == manifest()["spec"]
    assert api.get(JOB, "play") is None

    api.patch(JOB, "work", {"spec": {"parallelism": 5, "completions": 5}})
    (request,) = fake_cluster.asked("PATCH", "/jobs/work")
    assert request.content_type == "application/merge-patch+json"
    assert fake_cluster.objects[JOBS, "work"]["spec"]["parallelism"] == 5

    fake_cluster.add_pod("work", 0)
    assert api.delete(JOB, "work", uid=made["metadata"]["uid"])
    (request,) = fake_cluster.asked("DELETE", "/jobs/work")
    assert request.body["propagationPolicy"] == "Background"
    assert fake_cluster.objects == {}
    assert not api.delete(JOB, "work")


def test_only_that_very_object_is_deleted(fake_cluster: FakeCluster, api: Api) -> None:
    api.create(manifest())
    with pytest.raises(ApiError, match="precondition"):
        api.delete(JOB, "work", uid="another")
    assert (JOBS, "work") in fake_cluster.objects


def test_lists_are_chosen_by_labels_and_fields_and_read_page_by_page(fake_cluster: FakeCluster, api: Api) -> None:
    fake_cluster.page = 2
    for number in range(5):
        fake_cluster.put(JOBS, manifest(f"work-{number}"))
    other = fake_cluster.put(JOBS, {**manifest("other"), "metadata": {"name": "other", "labels": {}}})
    names = [job["metadata"]["name"] for job in api.list(JOB, labels="app.kubernetes.io/managed-by=trainloom").items]
    assert names == [f"work-{number}" for number in range(5)]
    assert [request.query.get("continue") for request in fake_cluster.asked("GET", "/jobs")] == [None, "2", "4"]
    fake_cluster.add_event(other, "FailedCreate", "no")
    fake_cluster.add_event(fake_cluster.objects[JOBS, "work-1"], "FailedCreate", "nor this")
    fields = f"involvedObject.uid={other['metadata']['uid']},type=Warning"
    assert [event["message"] for event in api.list(EVENT, fields=fields).items] == ["no"]


def test_a_dry_run_makes_nothing(fake_cluster: FakeCluster, api: Api) -> None:
    api.create(manifest(), dry_run=True)
    assert fake_cluster.asked("POST", "/jobs")[0].query == {"fieldValidation": "Strict", "dryRun": "All"}
    assert fake_cluster.objects == {}


def test_unknown_fields_and_invalid_values_are_refused_in_the_servers_words(
    fake_cluster: FakeCluster, api: Api
) -> None:
    wrong = manifest()
    wrong["spec"]["template"]["spec"]["hostNetwrok"] = True
    with pytest.raises(ApiError, match='unknown field "spec.template.spec.hostNetwrok"') as caught:
        api.create(wrong)
    assert caught.value.status == 400
    wrong = manifest()
    del wrong["spec"]["completions"]
    with pytest.raises(ApiError, match="spec.completions: Required value") as caught:
        api.create(wrong)
    assert caught.value.status == 422
    api.create(manifest())
    with pytest.raises(ApiError, match='jobs.batch "work" already exists') as caught:
        api.create(manifest())
    assert caught.value.status == 409
    assert len(fake_cluster.asked("POST", "/jobs")) == 4


def test_what_is_forbidden_is_said_and_not_tried_again(fake_cluster: FakeCluster, api: Api) -> None:
    fake_cluster.denied = {("list", "pods")}
    with pytest.raises(ApiError, match='User "alice" cannot list resource "pods"') as caught:
        api.list(POD)
    assert caught.value.status == 403
    assert len(fake_cluster.asked("GET", "/pods")) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(fake_cluster: FakeCluster, api: Api, pauses: list[float], status: int) -> None:
    fake_cluster.faults.append(Fault("GET", "/jobs", status=status, times=2))
    assert api.list(JOB).items == []
    assert len(fake_cluster.asked("GET", "/jobs")) == 3
    assert 0 < pauses[0] < pauses[1]


def test_the_server_says_how_long_to_wait(fake_cluster: FakeCluster, api: Api, pauses: list[float]) -> None:
    fake_cluster.faults.append(Fault("GET", "/jobs", status=429, retry_after="7"))
    fake_cluster.faults.append(Fault("POST", "/jobs", status=429, retry_after="3600"))
    api.list(JOB)
    api.create(manifest())
    assert pauses == [7, 10]


def test_a_server_that_stays_busy_is_given_up(fake_cluster: FakeCluster, api: Api, pauses: list[float]) -> None:
    fake_cluster.faults.append(Fault("GET", "/jobs", status=503, times=100))
    with pytest.raises(ApiError, match="the server says 503"):
        api.list(JOB)
    assert len(pauses) == 5


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_broken_connection_is_made_again(fake_cluster: FakeCluster, api: Api, method: str, when: str) -> None:
    api.create(manifest())
    fake_cluster.faults.append(Fault(method, "/jobs/work", when=when))
    if method == "GET":
        assert api.get(JOB, "work") is not None
    elif method == "PATCH":
        assert api.patch(JOB, "work", {"spec": {"suspend": True}})["spec"]["suspend"]
    else:
        api.delete(JOB, "work")
        assert fake_cluster.objects == {}
    assert not fake_cluster.faults


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_create_whose_answer_is_lost_is_made_once(fake_cluster: FakeCluster, api: Api, when: str) -> None:
    fake_cluster.faults.append(Fault("POST", "/jobs", when=when))
    made = api.create(manifest())
    assert made["metadata"]["uid"] == fake_cluster.objects[JOBS, "work"]["metadata"]["uid"]
    assert len(fake_cluster.asked("POST", "/jobs")) == (1 if when == "after" else 2)


def test_the_object_of_somebody_else_is_not_taken_for_ones_own(fake_cluster: FakeCluster, api: Api) -> None:
    fake_cluster.put(JOBS, manifest())
    fake_cluster.faults.append(Fault("POST", "/jobs", when="before"))
    with pytest.raises(ApiError, match="already exists"):
        api.create(manifest())


def test_a_secret_is_looked_for_without_its_content(fake_cluster: FakeCluster, api: Api) -> None:
    fake_cluster.put("secrets", {"metadata": {"name": "db"}, "data": {"password": "aHVudGVyMg=="}})
    assert api.exists(SECRET, "db")
    assert not api.exists(SECRET, "other")
    assert all("PartialObjectMetadata" in request.accept for request in fake_cluster.requests)


def test_rights_are_asked_one_by_one(fake_cluster: FakeCluster, api: Api) -> None:
    assert missing(api) == []
    fake_cluster.denied = {("delete", "jobs"), ("get", "pods/log")}
    assert missing(api) == ["delete jobs", "get pods/log"]
    asked = [request.body["spec"]["resourceAttributes"] for request in fake_cluster.requests]
    assert {"namespace": NAMESPACE, "verb": "delete", "group": "batch", "resource": "jobs"} in asked
    assert {"namespace": NAMESPACE, "verb": "get", "resource": "pods", "subresource": "log"} in asked
    assert not any(attributes["resource"] == "secrets" for attributes in asked)


def test_a_page_that_is_no_api_server_is_told_apart(fake_cluster: FakeCluster, api: Api) -> None:
    fake_cluster.greeting = b"<html>please log in</html>"
    with pytest.raises(ApiError, match="does not speak JSON; is it the address of an API server"):
        api.version()


def test_paths_are_those_of_the_groups() -> None:
    assert ROLE.path("lab", "r") == "/apis/rbac.authorization.k8s.io/v1/namespaces/lab/roles/r"
    assert POD.path("lab", "p", "log") == "/api/v1/namespaces/lab/pods/p/log"


# Watches


def names_of(watched: Watched) -> list[str]:
    return [thing["metadata"]["name"] for thing in watched.objects()]


def wait_for(watched: Watched, wanted: list[str]) -> None:
    """Return when the objects are these."""
    while names_of(watched) != wanted:
        assert watched.changed.wait(60), names_of(watched)
        watched.changed.clear()


@pytest.fixture
def watched(fake_cluster: FakeCluster, api: Api) -> Iterator[Watched]:
    fake_cluster.put(JOBS, manifest("a"))
    with Watched(api, JOB, labels="app.kubernetes.io/managed-by=trainloom", changed=threading.Event()) as jobs:
        yield jobs


def watching(fake_cluster: FakeCluster, times: int) -> None:
    """Return when a watch was begun so many times."""
    fake_cluster.wait_for(lambda: sum(r.query.get("watch") == "true" for r in fake_cluster.requests) >= times)


def test_a_watch_tells_what_comes_changes_and_goes(fake_cluster: FakeCluster, watched: Watched) -> None:
    assert names_of(watched) == ["a"]
    fake_cluster.put(JOBS, {**manifest("x"), "metadata": {"name": "x", "labels": {}}})
    fake_cluster.put(JOBS, manifest("b"))
    wait_for(watched, ["a", "b"])
    fake_cluster.remove(JOBS, "a")
    wait_for(watched, ["b"])
    begun = next(r.query for r in fake_cluster.requests if r.query.get("watch"))
    assert begun["resourceVersion"] == "1"
    assert begun["labelSelector"] == "app.kubernetes.io/managed-by=trainloom"
    assert begun["allowWatchBookmarks"] == "true"


def test_a_watch_that_is_closed_ends_its_thread(fake_cluster: FakeCluster, watched: Watched) -> None:
    *_, thread = [thread for thread in threading.enumerate() if thread.name == "watch jobs"]
    watching(fake_cluster, 1)
    watched.close()
    fake_cluster.put(JOBS, manifest("b"))
    thread.join(60)
    assert not thread.is_alive()
    assert names_of(watched) == ["a", "b"]


def test_a_watch_that_breaks_goes_on_from_where_it_was(fake_cluster: FakeCluster, watched: Watched) -> None:
    fake_cluster.put(JOBS, manifest("b"))
    wait_for(watched, ["a", "b"])
    fake_cluster.break_streams()
    fake_cluster.put(JOBS, manifest("c"))
    wait_for(watched, ["a", "b", "c"])
    versions = [r.query["resourceVersion"] for r in fake_cluster.requests if r.query.get("watch")]
    assert versions[:2] == ["1", "2"]


def test_a_watch_lists_again_what_the_server_has_forgotten(fake_cluster: FakeCluster, watched: Watched) -> None:
    watching(fake_cluster, 1)
    fake_cluster.faults.append(Fault("GET", "/jobs", status=503))
    fake_cluster.break_streams()
    fake_cluster.wait_for(lambda: not fake_cluster.faults)
    fake_cluster.remove(JOBS, "a")
    fake_cluster.put(JOBS, manifest("b"))
    fake_cluster.forget()
    wait_for(watched, ["b"])
    assert sum("watch" not in request.query for request in fake_cluster.asked("GET", "/jobs")) >= 1


def test_a_watch_outlasts_a_server_that_forgets_and_is_then_busy(fake_cluster: FakeCluster, watched: Watched) -> None:
    watching(fake_cluster, 1)
    fake_cluster.faults += [Fault("GET", "/jobs", status=410), Fault("GET", "/jobs", status=503, times=TRIES)]
    fake_cluster.break_streams()
    fake_cluster.put(JOBS, manifest("b"))
    wait_for(watched, ["a", "b"])


def test_a_watch_that_is_answered_with_something_else_has_ended(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    class Page:
        def stream(self, *_: Any, **__: Any) -> list[bytes]:
            return [b"<html>\n"]

        def close(self) -> None:
            pass

    monkeypatch.setattr(api, "_response", lambda *_, **__: Page())
    assert list(api.watch(JOB, "1")) == []


def test_a_watch_that_is_forbidden_meanwhile_ends_with_the_reason(fake_cluster: FakeCluster, watched: Watched) -> None:
    watching(fake_cluster, 1)
    fake_cluster.denied = {("watch", "jobs")}
    fake_cluster.break_streams()
    fake_cluster.wait_for(lambda: sum(r.query.get("watch") == "true" for r in fake_cluster.requests) >= 2)
    with pytest.raises(ApiError, match="cannot watch"):
        while watched.changed.wait(60):
            watched.changed.clear()
            watched.objects()


# Logs


def test_the_log_of_a_pod_is_read_as_it_is(fake_cluster: FakeCluster, api: Api) -> None:
    fake_cluster.put(JOBS, manifest())
    pod = fake_cluster.add_pod("work", 0)["metadata"]["name"]
    fake_cluster.write(pod, "one", "zwei π", "three")
    assert list(log_streams.read(api, pod)) == ["one", "zwei π", "three"]
    assert list(log_streams.read(api, pod, tail=1)) == ["three"]
    with pytest.raises(ApiError, match="not found"):
        list(log_streams.read(api, pod, previous=True))


def test_the_workers_log_is_read_beside_other_containers(fake_cluster: FakeCluster, api: Api) -> None:
    fake_cluster.put(JOBS, manifest())
    pod = fake_cluster.add_pod("work", 0)
    pod["spec"]["containers"].append({"name": "proxy", "image": "proxy"})  # as a service mesh adds one
    fake_cluster.put(PODS, pod)
    fake_cluster.write(pod["metadata"]["name"], "epoch 1")
    assert list(log_streams.read(api, pod["metadata"]["name"])) == ["epoch 1"]


def test_logs_are_followed_over_breaks_and_pods_that_come_and_go(fake_cluster: FakeCluster, api: Api) -> None:
    fake_cluster.put(JOBS, manifest())
    first = fake_cluster.add_pod("work", 0)
    waiting = fake_cluster.add_pod("work", 1, "Pending")
    name, late = first["metadata"]["name"], waiting["metadata"]["name"]
    fake_cluster.write(name, "old", "older", "one")
    lines = LogStreams(api, "app.kubernetes.io/managed-by=trainloom", jobs=["work"], tail=1).lines()
    assert next(lines) == (name, "one")
    fake_cluster.write(name, "two")
    assert next(lines) == (name, "two")
    fake_cluster.break_streams()
    fake_cluster.write(name, "three")
    assert next(lines) == (name, "three")
    begun, again, *_ = (request.query for request in fake_cluster.asked("GET", f"/{name}/log"))
    assert begun == {"container": "worker", "follow": "true", "timestamps": "true", "tailLines": "1"}
    assert again["sinceTime"] in ("2026-01-01T00:00:03.000000000Z", "2026-01-01T00:00:04.000000000Z")

    fake_cluster.write(late, "begin", ended=True)
    fake_cluster.put(PODS, {**waiting, "status": {"phase": "Running"}})
    assert next(lines) == (late, "begin")
    fake_cluster.put(PODS, {**waiting, "status": {"phase": "Succeeded"}})

    fake_cluster.write(name, "end", ended=True)
    assert next(lines) == (name, "end")
    fake_cluster.remove(PODS, name)
    job = fake_cluster.objects[JOBS, "work"]
    fake_cluster.put(JOBS, {**job, "status": {"conditions": [{"type": "Complete", "status": "True"}]}})
    assert list(lines) == []


def test_lines_of_one_moment_are_neither_lost_nor_doubled_by_a_break() -> None:
    position = log_streams._Position()
    assert [position.text_of(f"t1 {text}") for text in "ab"] == ["a", "b"]
    assert position.query() == {"sinceTime": "t1"}
    assert [position.text_of(line) for line in ("t0 z", "t1 a", "t1 b", "t1 c", "t2 d")] == [
        None,
        None,
        None,
        "c",
        "d",
    ]


def test_a_log_that_may_not_be_read_is_said(fake_cluster: FakeCluster, api: Api) -> None:
    fake_cluster.put(JOBS, manifest())
    fake_cluster.add_pod("work", 0)
    fake_cluster.denied = {("get", "pods/log")}
    with pytest.raises(ApiError, match='cannot get resource "pods/log"'):
        list(LogStreams(api, "app.kubernetes.io/managed-by=trainloom", jobs=["work"]).lines())
