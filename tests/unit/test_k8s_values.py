"""Values: what a file, the command line and groups make of them, and what is said of wrong ones."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from k8s import patch, values_file
from k8s.errors import KubernetesError
from k8s.values import Values, ValuesError

IMAGE = {"image": "lab/trainloom:1.0"}
GIT = {
    "source": "git",
    "repository": "https://git.example.org/lab.git",
    "commit": "0" * 40,
    "image": "alpine/git:2.49",
}


def load(**values: Any) -> Values:
    return Values.load(None, None, defaults={**IMAGE, **values})


WRONG = [
    ({"image": None}, "image: must be text"),
    ({"imagee": "x"}, "imagee: is no value; did you mean image?"),
    ({"imagePullPolicy": "Never"}, "imagePullPolicy: is no value; did you mean image_pull_policy?"),
    ({"xyz": 1}, "xyz: is no value; there are annotations, code, "),
    ({"image_pull_policy": "Sometimes"}, "image_pull_policy: must be Always, IfNotPresent or Never"),
    ({"name": "Digits_1"}, "name: 'Digits_1' is no name; use"),
    ({"user": 0}, "user: must be at least 1"),
    ({"labels": {"a b": "x"}}, "labels.a b: 'a b' is no key of a label"),
    ({"labels": {"a": "b c"}}, "labels.a: 'b c' is no value of a label"),
    ({"image_pull_secrets": "registry"}, "image_pull_secrets: must be a list"),
    ({"secrets": [{"name": "x"}]}, "secrets[0].env: is missing"),
    ({"secrets": [{"name": "x", "env": {"A-B": "c"}}]}, "secrets[0].env.A-B: 'A-B' is no variable"),
    ({"settings": {"project": None}}, "settings.project: None is no value of a setting"),
    ({"settings": {"grace_seconds": 9}}, "settings: has grace_seconds, which the value grace_seconds sets; remove it"),
    ({"settings": {"progress_file": "/x"}}, "settings: has progress_file, which is set anyway; remove it"),
    ({"worker": 8}, "worker: must be `name: value` lines"),
    ({"worker": {"workers": "8"}}, "worker.workers: must be a whole number without quotes"),
    ({"worker": {"workers": 2.5}}, "worker.workers: must be a whole number"),
    ({"worker": {"workers": 0}}, "worker.workers: must be at least 1"),
    ({"worker": {"workers": 10**6}}, "worker.workers: must be at most 10000"),
    ({"worker": {"gpuMemory": "1Gi"}}, "worker.gpuMemory: is no value; did you mean gpu_memory?"),
    ({"worker": {"memory": "16 GB"}}, "worker.memory: '16 GB' is no quantity; write a number with a unit"),
    ({"worker": {"memory": 0}}, "worker.memory: '0' is nothing"),
    ({"worker": {"gpu_memory": "8Gi"}}, "worker: has gpu_memory, but no gpus"),
    (
        {"worker": {"gpu_memory": "8Gi", "gpus": 1, "gpu_resource": "amd.com/gpu"}},
        "worker: has gpu_memory, which only NVIDIA's nodes",
    ),
    ({"worker": {"max_failed": 2}}, "worker: has max_failed 2, more than its 1 workers"),
    ({"worker": {"command": ["a"], "options": ["b"]}}, "worker: has a command of its own"),
    ({"worker": {"autoscale": {"secret": "s"}, "queue": "q"}}, "worker: has autoscale, beside which queue"),
    ({"worker": {"watch": "yes"}}, "worker.watch: must be true or false"),
    ({"worker": {"command": "trainloom"}}, "worker.command: must be a list"),
    ({"worker": {"env": {"A": 1}}}, "worker.env.A: must be text; write it in quotes"),
    ({"worker": {"tolerations": [{"operator": "Equals"}]}}, "worker.tolerations[0].operator: must be Equal or Exists"),
    ({"worker": {"required_nodes": [{"operator": "In"}]}}, "worker.required_nodes[0].key: is missing"),
    (
        {"worker": {"preferred_nodes": [{"key": "a", "weight": 0}]}},
        "worker.preferred_nodes[0].weight: must be at least",
    ),
    ({"worker": {"mounts": {"a": {"path": "/a"}}}}, "worker.mounts.a: needs either a claim"),
    ({"worker": {"mounts": {"a": {"path": "a", "claim": "x"}}}}, "worker.mounts.a.path: 'a' is no absolute path"),
    (
        {"worker": {"mounts": {"a": {"path": "/a", "claim": "x", "sub_path": "../b"}}}},
        "worker.mounts.a.sub_path: '../b' must lie within",
    ),
    ({"worker": {"mounts": {"tmp": {"path": "/a", "claim": "x"}}}}, "worker.mounts: has 'tmp', which every pod has"),
    ({"groups": {"gpu": {"gpu": 1}}}, "groups.gpu.gpu: is no value; did you mean gpus?"),
    ({"groups": {"gpu": 3}}, "groups.gpu: must be `name: value` lines"),
    ({"groups": {"GPU": {}}}, "groups.GPU: 'GPU' is no name"),
    ({"groups": ["gpu"]}, "groups: must be `name: value` lines"),
    ({"code": {"source": "svn"}}, "code.source: must be image, git or pvc"),
    ({"code": {"source": "git"}}, "code: needs repository, where source is git"),
    ({"code": {"source": "pvc"}}, "code: needs claim, where source is pvc"),
    ({"code": {"claim": "x"}}, "code: has claim, which counts nothing where source is image"),
    ({"code": {**GIT, "commit": "main"}}, "code.commit: 'main' pins no commit; give all 40"),
    ({"code": {**GIT, "repository": "git@example.org:lab.git"}}, "code.repository: must begin with https://"),
    ({"code": {**GIT, "repository": "https://me:pw@example.org/lab.git"}}, "code.repository: must not hold a user"),
    ({"code": {**GIT, "repository": "http://git/lab.git", "secret": "s"}}, "code: has a secret, which only https://"),
    ({"code": {**GIT, "folder": "/src"}}, "code: has the folder '/src'; give one within"),
    ({"code": {"packages": ["my-lab"]}}, "code.packages: 'my-lab' is no root of a package"),
    ({"submitters": [{"kind": "Robot", "name": "x"}]}, "submitters[0].kind: must be User, Group or ServiceAccount"),
]


@pytest.mark.parametrize(("values", "says"), WRONG, ids=[says[:50] for _, says in WRONG])
def test_a_wrong_value_is_named_with_its_rule_and_cure(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValuesError) as error:
        load(**values)
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


def test_no_password_of_an_address_is_repeated() -> None:
    with pytest.raises(ValuesError) as error:
        load(code={**GIT, "repository": "https://me:s3cret@example.org/lab.git"})
    assert "s3cret" not in str(error.value)


def test_what_else_is_wrong_is_counted_once_for_all_groups() -> None:
    with pytest.raises(ValuesError, match=r"^worker.gpus: .* \(1 more wrong\)$"):
        load(worker={"gpus": "1", "cpus": "x y"}, groups={"a": {}, "b": {}})


def test_the_image_is_asked_for() -> None:
    with pytest.raises(ValuesError, match="^image: is missing"):
        Values.load()


def test_numbers_are_quantities_too() -> None:
    assert load(worker={"cpus": 2, "memory": 0.5e9}).worker.cpus == "2"
    assert load(worker={"cpus": 1.5}).worker.cpus == "1.5"


def test_values_cannot_be_changed() -> None:
    values = load(worker={"env": {"A": "b"}})
    with pytest.raises(ValidationError):
        values.name = "other"
    with pytest.raises(TypeError):
        values.worker.env["A"] = "c"  # type: ignore[index]


def test_without_groups_there_is_one_job_of_the_name() -> None:
    assert list(load(name="digits").jobs()) == ["digits"]


def test_groups_begin_with_what_all_have() -> None:
    values = load(
        name="digits",
        worker={"memory": "4Gi", "env": {"A": "1", "B": "2"}, "options": ["--watch"], "gpu_memory": "8Gi", "gpus": 1},
        groups={"gpu": {"memory": "64Gi", "env": {"B": "3"}}, "cpu": {"gpu_memory": None, "gpus": 0, "options": []}},
    )
    jobs = values.jobs()
    assert list(jobs) == ["digits-gpu", "digits-cpu"]
    assert (jobs["digits-gpu"].memory, dict(jobs["digits-gpu"].env)) == ("64Gi", {"A": "1", "B": "3"})
    assert (jobs["digits-cpu"].memory, jobs["digits-cpu"].gpu_memory, jobs["digits-cpu"].options) == ("4Gi", None, ())


def test_a_file_lies_between_defaults_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("image: a:1\nsettings: {project: filed}\nworker:\n  workers: 3\n")
    values = Values.load(
        path,
        {"worker.gpus": 2, "worker.node_selector.example\\.org/zone": "east"},
        defaults={"name": "digits", "settings": {"project": "default", "store": "gridfs"}},
    )
    assert (values.name, values.image, values.worker.workers, values.worker.gpus) == ("digits", "a:1", 3, 2)
    assert dict(values.settings) == {"project": "filed", "store": "gridfs"}
    assert dict(values.worker.node_selector) == {"example.org/zone": "east"}


def test_an_empty_file_and_empty_sections_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("worker:\ngroups:\n  gpu:\n")
    assert list(Values.load(path, IMAGE).jobs()) == ["trainloom-gpu"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [", "is not valid YAML: line 1, column 5"),
        ("- a", "must hold `name: value` lines, not a list"),
        (b"\xff\xfe\xff", "is not valid YAML"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, content: str | bytes | None, says: str) -> None:
    path = tmp_path / "values.yaml"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValuesError, match=f"values.yaml {says}"):
        Values.load(path)


@pytest.mark.parametrize("read", [values_file.read, patch.read])
def test_no_line_of_a_file_that_is_no_yaml_is_shown(tmp_path: Path, read: Any) -> None:
    (tmp_path / "values.yaml").write_text("token: [hunter2")
    with pytest.raises(KubernetesError) as caught:
        read(tmp_path / "values.yaml")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_an_override_that_groups_hide_is_refused() -> None:
    groups = {"groups": {"gpu": {"workers": 2}, "cpu": {}}}
    with pytest.raises(ValuesError, match="have their own: gpu; name the group, such as groups.gpu.workers"):
        Values.load(None, {"worker.workers": 8}, defaults={**IMAGE, **groups})
    jobs = Values.load(None, {"groups.gpu.workers": 8, "worker.gpus": 1}, defaults={**IMAGE, **groups}).jobs()
    assert {name: (job.workers, job.gpus) for name, job in jobs.items()} == {
        "trainloom-gpu": (8, 1),
        "trainloom-cpu": (1, 1),
    }


@pytest.mark.parametrize("path", ["", "worker.", ".gpus", "image.tag"])
def test_an_override_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(ValuesError, match="no path of a value|leads nowhere"):
        Values.load(None, {path: 1}, defaults=IMAGE)


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({}, ["TRAINLOOM_DATABASE_URL", "TRAINLOOM_MONGO_URL"]),
        ({"database_host": "db"}, ["TRAINLOOM_MONGO_URL"]),
        ({"database_url": "postgresql://db/lab", "store_dir": "/mnt"}, None),
    ],
)
def test_addresses_that_settings_lack_come_from_a_secret(settings: dict[str, str], keys: list[str] | None) -> None:
    secrets = load(name="digits", settings=settings).credentials()
    assert [(secret.name, list(secret.env)) for secret in secrets] == ([("digits-servers", keys)] if keys else [])
    assert load(settings=settings, secrets=[]).credentials() == ()
