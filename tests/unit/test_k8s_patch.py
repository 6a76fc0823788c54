"""Patches of one's own over rendered objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import patch
from k8s.lint import lint
from k8s.patch import PatchError, patched
from k8s.render import render
from k8s.values import Values

VALUES = Values.load(None, {"image": "a:1", "name": "digits", "groups": {"gpu": {"gpus": 1}, "cpu": {}}})


def patch_with(text: str) -> dict[tuple[str, str], dict[str, Any]]:
    objects = patched(render(VALUES), list(yaml.safe_load_all(text)))
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


def worker(item: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = item["spec"]["template"]["spec"]["containers"][0]
    return found


def test_named_items_merge_and_other_lists_are_replaced() -> None:
    objects = patch_with("""
        kind: Job
        metadata: {name: digits-gpu}
        spec:
          ttlSecondsAfterFinished: null
          template:
            spec:
              tolerations: [{key: mine, operator: Exists}]
              containers:
              - name: worker
                env: [{name: HOME, value: /home/me}, {name: NEW, value: x}]
                volumeMounts: [{name: data, mountPath: /data}]
              - {name: sidecar, image: "b:1"}
              volumes: [{name: data, emptyDir: {}}]
    """)
    job, other = objects["Job", "digits-gpu"], objects["Job", "digits-cpu"]
    spec = job["spec"]["template"]["spec"]
    variables = {item["name"]: item.get("value") for item in worker(job)["env"]}
    assert "ttlSecondsAfterFinished" not in job["spec"]
    assert spec["tolerations"] == [{"key": "mine", "operator": "Exists"}]
    assert [item["name"] for item in spec["containers"]] == ["worker", "sidecar"]
    assert worker(job)["image"] == "a:1"
    assert (variables["HOME"], variables["NEW"], variables["TRAINLOOM_IMAGE"]) == ("/home/me", "x", "a:1")
    assert [item["name"] for item in spec["volumes"]] == ["tmp", "shm", "scratch", "data"]
    assert {item["name"]: item.get("value") for item in worker(other)["env"]}["HOME"] == "/tmp"
    assert not [item for item in lint(objects.values()) if item.severity == "error"]


def test_a_patch_without_a_name_is_for_all_of_its_kind() -> None:
    objects = patch_with("{kind: Job, metadata: {labels: {team: vision}}}")
    jobs = [item for (kind, _), item in objects.items() if kind == "Job"]
    assert len(jobs) == 2
    assert all(item["metadata"]["labels"]["team"] == "vision" for item in jobs)
    assert all(len(item["metadata"]["labels"]) > 1 for item in jobs)


def test_items_and_mappings_can_be_removed_and_replaced() -> None:
    objects = patch_with("""
        kind: Job
        spec:
          podFailurePolicy: {$patch: delete}
          template:
            spec:
              containers:
              - name: worker
                env: [{name: HOME, $patch: delete}]
                resources: {$patch: replace, limits: {cpu: 1}}
    """)
    job = objects["Job", "digits-gpu"]
    assert "podFailurePolicy" not in job["spec"]
    assert "HOME" not in [item["name"] for item in worker(job)["env"]]
    assert worker(job)["resources"] == {"limits": {"cpu": 1}}


def test_what_a_patch_breaks_is_found() -> None:
    objects = patch_with("{kind: Job, metadata: {name: digits-cpu}, spec: {paralellism: 3, completions: 2}}")
    found = {(item.object, item.path) for item in lint(objects.values()) if item.severity == "error"}
    assert found == {("Job/digits-cpu", "spec.paralellism")}


def test_the_objects_themselves_stay() -> None:
    objects = render(VALUES)
    before = yaml.safe_dump_all(objects)
    patched(objects, [{"kind": "Job", "spec": {"template": {"spec": {"hostNetwork": True}}}}])
    assert yaml.safe_dump_all(objects) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{kind: Job, metadata: {name: digts}}", "the patch of Job/digts fits no object; there are ConfigMap/digits"),
        ("{kind: Deployment}", "the patch of Deployment/\\? fits no object"),
        (
            "{kind: Job, spec: {template: {spec: {containers: [{image: b}]}}}}",
            "Job/digits-gpu: .*containers has an item without name",
        ),
    ],
)
def test_a_patch_that_fits_nothing_is_refused(text: str, says: str) -> None:
    with pytest.raises(PatchError, match=says):
        patch_with(text)


@pytest.mark.parametrize("content", ["a: [", "- 3", "spec: {}", "kind: Job\nmetadata: 3", None])
def test_a_file_that_holds_no_patch_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "patch.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PatchError, match="patch.yaml"):
        patch.read(path)


def test_a_file_holds_several(tmp_path: Path) -> None:
    path = tmp_path / "patch.yaml"
    path.write_text("kind: Job\n---\n---\nkind: ConfigMap\n")
    assert [item["kind"] for item in patch.read(path)] == ["Job", "ConfigMap"]
