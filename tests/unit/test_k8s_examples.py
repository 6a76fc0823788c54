"""The examples render what stands beside them: `UPDATE_MANIFESTS=1 pytest tests/unit/test_k8s_examples.py` writes it
anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from k8s.lint import lint
from k8s.manifest import to_yaml
from k8s.render import render
from k8s.values import Values

EXAMPLES = Path(__file__).parents[2] / "examples" / "kubernetes"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/values.yaml"))
WARNINGS = {"synicix": ["spec.template.spec.volumes[3].hostPath"]}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_renders_its_manifest(name: str) -> None:
    objects = render(Values.load(EXAMPLES / name / "values.yaml"))
    manifest = EXAMPLES / name / "manifest.yaml"
    if os.environ.get("UPDATE_MANIFESTS"):
        manifest.write_text(to_yaml(objects), encoding="utf-8")
    assert list(yaml.safe_load_all(manifest.read_text(encoding="utf-8"))) == objects
    assert manifest.read_text(encoding="utf-8") == to_yaml(objects)
    assert [item.path for item in lint(objects)] == WARNINGS.get(name, [])


@pytest.mark.feature("S19")
def test_the_documents_manifest_has_all_its_wishes() -> None:
    objects = list(yaml.safe_load_all((EXAMPLES / "synicix" / "manifest.yaml").read_text(encoding="utf-8")))
    job = objects[-1]
    pod = job["spec"]["template"]["spec"]
    nodes = pod["affinity"]["nodeAffinity"]
    (worker,) = pod["containers"]
    assert job["metadata"]["name"] == "synicix-ml-pipeline"
    assert job["spec"]["parallelism"] == 110
    assert pod["restartPolicy"] == "Never"
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Equal", "value": "true", "effect": "NoSchedule"}]
    assert {"name": "mnt", "hostPath": {"path": "/mnt", "type": "Directory"}} in pod["volumes"]
    assert {"name": "mnt", "mountPath": "/mnt"} in worker["volumeMounts"]
    assert nodes["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] == [
        {
            "matchExpressions": [
                {"key": "gpu_mem_size", "operator": "In", "values": ["8GB", "11GB", "12GB", "24GB", "32GB"]}
            ]
        }
    ]
    assert nodes["preferredDuringSchedulingIgnoredDuringExecution"] == [
        {
            "weight": 100,
            "preference": {"matchExpressions": [{"key": "tensor_cores", "operator": "In", "values": ["true"]}]},
        }
    ]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    secrets = {item["name"]: item["valueFrom"]["secretKeyRef"] for item in worker["env"] if "secretKeyRef" in str(item)}
    assert {name: secrets[name] for name in ("DJ_HOST", "DJ_USER", "DJ_PASS")} == {
        name: {"name": "datajoint-credentials", "key": name} for name in ("DJ_HOST", "DJ_USER", "DJ_PASS")
    }
    git = next(item for item in pod["volumes"] if "github-credentials" in str(item))
    assert sorted(item["key"] for item in git["secret"]["items"]) == ["GITHUB_PASSWORD", "GITHUB_USERNAME"]
    assert worker["command"] == ["trainloom", "worker", "--once", "--order", "random"]


def test_the_scaled_job_has_the_pods_of_a_job() -> None:
    objects = list(yaml.safe_load_all((EXAMPLES / "keda" / "manifest.yaml").read_text(encoding="utf-8")))
    scaled, authentication = objects[-1]["spec"], objects[-2]["spec"]
    (trigger,) = scaled["triggers"]
    job = scaled["jobTargetRef"]
    assert (scaled["maxReplicaCount"], job["completions"], job["parallelism"]) == (20, 1, 1)
    assert (trigger["type"], trigger["authenticationRef"]["name"]) == ("postgresql", objects[-2]["metadata"]["name"])
    assert "connection" not in trigger["metadata"]
    assert authentication["secretTargetRef"] == [
        {"parameter": "connection", "name": "digits-servers", "key": "TRAINLOOM_DATABASE_URL"}
    ]
    broken = yaml.safe_load(yaml.safe_dump(objects[-1]))
    del broken["spec"]["jobTargetRef"]["template"]["spec"]["restartPolicy"]
    assert [item.path for item in lint([broken])] == ["spec.jobTargetRef.template.spec.restartPolicy"]


def test_pods_of_one_training_meet_at_the_first() -> None:
    service, job = list(yaml.safe_load_all((EXAMPLES / "multi_node" / "manifest.yaml").read_text(encoding="utf-8")))[
        -2:
    ]
    pod = job["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    endpoint = next(word for word in command if word.startswith("--rdzv-endpoint="))
    assert endpoint == f"--rdzv-endpoint={job['metadata']['name']}-0.{service['metadata']['name']}:29400"
    assert f"--nnodes={job['spec']['completions']}" in command
    assert f"--nproc-per-node={pod['containers'][0]['resources']['limits']['nvidia.com/gpu']}" in command
