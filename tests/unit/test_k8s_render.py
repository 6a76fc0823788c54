"""What values render: the defaults that a cluster needs, and every wish that they express."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s import quantity
from k8s.lint import lint
from k8s.manifest import to_yaml
from k8s.render import render
from k8s.values import Values

IMAGE = "lab/trainloom@sha256:" + "0" * 64


def rendered(**values: Any) -> list[dict[str, Any]]:
    return render(Values.load(None, None, defaults={"image": IMAGE, "namespace": "lab", **values}))


def job(**worker: Any) -> dict[str, Any]:
    """The Job of workers like these."""
    return next(item for item in rendered(worker=worker) if item["kind"] == "Job")


def pod(**worker: Any) -> dict[str, Any]:
    found: dict[str, Any] = job(**worker)["spec"]["template"]["spec"]
    return found


def container(**worker: Any) -> dict[str, Any]:
    found: dict[str, Any] = pod(**worker)["containers"][0]
    return found


def variables(spec: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in spec["env"]}


def errors(objects: list[dict[str, Any]]) -> list[str]:
    return [str(item) for item in lint(objects) if item.severity == "error"]


@pytest.mark.feature("S19")
def test_objects_come_in_the_order_in_which_pods_need_them() -> None:
    kinds = [item["kind"] for item in rendered()]
    assert kinds == ["ConfigMap", "ServiceAccount", "ServiceAccount", "Role", "RoleBinding", "Secret", "Job"]


def test_defaults_have_no_finding() -> None:
    assert lint(rendered()) == []


def test_indexes_are_places_of_workers_with_limits_of_their_own() -> None:
    spec = job(workers=8)["spec"]
    assert {name: spec[name] for name in ("completionMode", "completions", "parallelism", "podReplacementPolicy")} == {
        "completionMode": "Indexed",
        "completions": 8,
        "parallelism": 8,
        "podReplacementPolicy": "Failed",
    }
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (10, 8)
    assert "backoffLimit" not in spec
    assert "suspend" not in spec


def test_a_disruption_does_not_count_and_a_wrong_configuration_ends_that_worker() -> None:
    first, second = job()["spec"]["podFailurePolicy"]["rules"]
    assert (first["action"], first["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert second == {
        "action": "FailIndex",
        "onExitCodes": {"containerName": container()["name"], "operator": "In", "values": [78]},
    }
    assert job(misconfigured="FailJob")["spec"]["podFailurePolicy"]["rules"][1]["action"] == "FailJob"


def test_a_pod_has_no_rights_and_writes_only_to_its_folders() -> None:
    spec, worker = pod(), container()
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert worker["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "hostNetwork" not in spec
    assert [mount["mountPath"] for mount in worker["volumeMounts"]] == ["/tmp", "/dev/shm", "/scratch"]
    assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"])


def test_accounts_have_no_token_and_the_submitter_no_secrets() -> None:
    objects = rendered(submitters=[{"kind": "User", "name": "jane"}])
    accounts = [item for item in objects if item["kind"] == "ServiceAccount"]
    role = next(item for item in objects if item["kind"] == "Role")
    binding = next(item for item in objects if item["kind"] == "RoleBinding")
    assert [item["automountServiceAccountToken"] for item in accounts] == [False, False]
    assert sorted(name for rule in role["rules"] for name in rule["resources"]) == [
        "events",
        "jobs",
        "pods",
        "pods/log",
    ]
    assert [(item["kind"], item["name"]) for item in binding["subjects"]] == [
        ("User", "jane"),
        ("ServiceAccount", "trainloom-submitter"),
    ]
    assert pod()["serviceAccountName"] == "trainloom"


def test_a_binding_needs_a_namespace_or_somebody_to_bind() -> None:
    assert "RoleBinding" not in [item["kind"] for item in rendered(namespace=None)]
    bound = rendered(namespace=None, submitters=[{"kind": "Group", "name": "lab"}])
    assert "RoleBinding" in [item["kind"] for item in bound]
    assert errors(bound) == []


def test_an_account_of_ones_own_is_not_made() -> None:
    objects = rendered(service_account="mine")
    names = [item["metadata"]["name"] for item in objects if item["kind"] == "ServiceAccount"]
    assert names == ["trainloom-submitter"]
    assert objects[-1]["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


def test_a_pod_has_more_time_to_end_than_its_worker() -> None:
    worker = container(grace_seconds=300)
    assert variables(worker)["TRAINLOOM_GRACE_SECONDS"] == "300"
    assert pod(grace_seconds=300)["terminationGracePeriodSeconds"] == 330


def test_a_worker_knows_its_pod() -> None:
    seen = variables(container())
    assert seen["TRAINLOOM_POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert seen["TRAINLOOM_POD_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert seen["TRAINLOOM_NODE_NAME"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    assert seen["TRAINLOOM_IMAGE"] == IMAGE


def test_liveness_asks_the_workers_file_and_waits_long() -> None:
    probe = container()["livenessProbe"]
    assert probe["exec"]["command"] == ["python", "-m", "pipeline.liveness"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 600
    assert variables(container())["TRAINLOOM_PROGRESS_FILE"].startswith("/tmp/")
    assert "livenessProbe" not in container(liveness=False)
    assert "livenessProbe" not in container(command=["python", "train.py"])


def test_secrets_are_named_and_never_shown() -> None:
    secrets = [{"name": "datajoint-credentials", "env": {"DJ_HOST": "host", "DJ_PASS": "pass"}, "optional": True}]
    objects = rendered(secrets=secrets, settings={"store_dir": "/mnt"})
    seen = variables(objects[-1]["spec"]["template"]["spec"]["containers"][0])
    assert seen["DJ_PASS"] == {"secretKeyRef": {"name": "datajoint-credentials", "key": "pass", "optional": True}}
    (example,) = [item for item in objects if item["kind"] == "Secret"]
    assert example["metadata"]["name"] == "datajoint-credentials-example"
    assert example["metadata"]["labels"]["trainloom/example"] == "true"
    assert example["stringData"] == {"host": "replace-me", "pass": "replace-me"}


def test_settings_are_variables_of_a_config_map_and_a_groups_own_come_first() -> None:
    objects = rendered(
        settings={"project": "retina", "num_workers": 2, "mirror_datasets": False, "allowed_packages": ["a", "b"]},
        worker={"settings": {"num_workers": 4}},
    )
    assert objects[0]["data"] == {
        "TRAINLOOM_ALLOWED_PACKAGES": "a,b",
        "TRAINLOOM_DATASET_CACHE_DIR": "/scratch/cache",
        "TRAINLOOM_DATASET_DIR": "/scratch/datasets",
        "TRAINLOOM_MIRROR_DATASETS": "false",
        "TRAINLOOM_MODEL_SAVE_DIR": "/scratch/models",
        "TRAINLOOM_NUM_WORKERS": "2",
        "TRAINLOOM_PROJECT": "retina",
    }
    worker = objects[-1]["spec"]["template"]["spec"]["containers"][0]
    assert worker["envFrom"] == [{"configMapRef": {"name": "trainloom"}}]
    assert variables(worker)["TRAINLOOM_NUM_WORKERS"] == "4"


def test_a_worker_takes_no_more_cores_and_cache_than_its_pod_has() -> None:
    seen = variables(container(cpus="7500m", gpus=2, scratch="10Gi"))
    assert seen["TRAINLOOM_TORCH_THREADS"] == "3"
    assert 0 < int(seen["TRAINLOOM_DATASET_CACHE_BYTES"]) < 10 * 2**30
    assert variables(container(cpus="500m"))["TRAINLOOM_TORCH_THREADS"] == "1"
    objects = rendered(settings={"dataset_cache_dir": "/mnt/cache", "torch_threads": 5})
    seen = variables(objects[-1]["spec"]["template"]["spec"]["containers"][0])
    assert not {"TRAINLOOM_DATASET_CACHE_BYTES", "TRAINLOOM_TORCH_THREADS"} & set(seen)


def test_without_gpus_none_is_seen() -> None:
    seen = variables(container())
    assert (seen["TRAINLOOM_DEVICE"], seen["NVIDIA_VISIBLE_DEVICES"]) == ("cpu", "void")
    assert not {"TRAINLOOM_DEVICE", "NVIDIA_VISIBLE_DEVICES"} & set(variables(container(gpus=1)))


def test_gpus_are_requested_tolerated_and_each_has_a_process() -> None:
    worker = container(gpus=4)
    assert worker["command"] == ["trainloom", "worker", "--once", "--processes", "4"]
    assert worker["resources"]["requests"]["nvidia.com/gpu"] == worker["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert pod(gpus=4)["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert container(gpus=4, processes=1)["command"] == ["trainloom", "worker", "--once"]
    assert "tolerations" not in pod(gpus=4, tolerations=[])
    mig = pod(gpus=1, gpu_resource="nvidia.com/mig-1g.10gb", gpu_memory="9Gi")
    (required,) = required_nodes(mig)
    assert required["key"] == "nvidia.com/mig-1g.10gb.memory"


def required_nodes(spec: dict[str, Any]) -> list[dict[str, Any]]:
    nodes = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    found: list[dict[str, Any]] = nodes["nodeSelectorTerms"][0]["matchExpressions"]
    return found


@pytest.mark.parametrize(
    ("asked", "has", "fits"),  # MiB as GPU feature discovery labels real cards
    [
        ("11Gi", 11264, True),
        ("11Gi", 11019, True),
        ("11Gi", 10240, False),
        ("16Gi", 15109, True),
        ("16Gi", 12288, False),
        ("24Gi", 22731, True),
        ("24Gi", 16384, False),
        ("40Gi", 39538, True),
        ("80Gi", 81079, True),
        ("80Gi", 46068, False),
    ],
)
def test_the_memory_of_a_gpu_is_asked_for_a_little_below_its_name(asked: str, has: int, fits: bool) -> None:
    (required,) = required_nodes(pod(gpus=1, gpu_memory=asked))
    assert (required["key"], required["operator"]) == ("nvidia.com/gpu.memory", "Gt")
    assert (has > int(required["values"][0])) is fits


def test_labels_of_ones_own_are_required_and_preferred() -> None:
    spec = pod(
        required_nodes=[{"key": "gpu_mem_size", "values": ["11GB", "24GB"]}],
        preferred_nodes=[{"weight": 7, "key": "tensor_cores", "operator": "In", "values": ["true"]}],
        node_selector={"zone": "east"},
    )
    nodes = spec["affinity"]["nodeAffinity"]
    assert required_nodes(spec) == [{"key": "gpu_mem_size", "operator": "In", "values": ["11GB", "24GB"]}]
    assert nodes["preferredDuringSchedulingIgnoredDuringExecution"] == [
        {
            "weight": 7,
            "preference": {"matchExpressions": [{"key": "tensor_cores", "operator": "In", "values": ["true"]}]},
        }
    ]
    assert spec["nodeSelector"] == {"zone": "east"}


def test_folders_are_on_claims_and_on_the_node_only_where_asked() -> None:
    mounts = {
        "data": {"path": "/data", "claim": "lab", "sub_path": "a", "read_only": True},
        "models": {"path": "/models", "claim": "lab"},
        "mnt": {"path": "/mnt", "host_path": "/mnt/scratch"},
    }
    spec = pod(mounts=mounts)
    assert spec["volumes"][3:] == [
        {"name": "data", "persistentVolumeClaim": {"claimName": "lab"}},
        {"name": "mnt", "hostPath": {"path": "/mnt/scratch", "type": "Directory"}},
    ]
    assert spec["containers"][0]["volumeMounts"][3:] == [
        {"name": "data", "mountPath": "/data", "subPath": "a", "readOnly": True},
        {"name": "data", "mountPath": "/models"},
        {"name": "mnt", "mountPath": "/mnt"},
    ]
    findings = lint(rendered(worker={"mounts": mounts}))
    assert [(item.severity, item.path[-8:]) for item in findings] == [("warning", "hostPath")]


def test_a_queue_starts_a_suspended_job() -> None:
    queued = job(queue="gpus")
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert queued["spec"]["suspend"] is True
    assert lint([job(queue="gpus", suspend=False)])[0].path == "spec.suspend"


def test_every_other_wish_has_its_field() -> None:
    objects = rendered(
        image_pull_secrets=["registry"],
        image_pull_policy="Always",
        worker={
            "priority_class": "low",
            "runtime_class": "nvidia",
            "deadline_seconds": 60,
            "ttl_seconds": None,
            "host_network": True,
            "env": {"A": "b"},
            "watch": True,
            "options": ["--order", "random"],
            "shm": "2Gi",
            "tmp": "1Gi",
            "scratch": "3Gi",
        },
    )
    made = objects[-1]["spec"]
    spec = made["template"]["spec"]
    worker = spec["containers"][0]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert worker["imagePullPolicy"] == "Always"
    assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("low", "nvidia")
    assert made["activeDeadlineSeconds"] == 60
    assert "ttlSecondsAfterFinished" not in made
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert variables(worker)["A"] == "b"
    assert worker["command"] == ["trainloom", "worker", "--watch", "--order", "random"]
    assert {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"]} == {
        "tmp": "1Gi",
        "shm": "2Gi",
        "scratch": "3Gi",
    }
    assert quantity.amount(worker["resources"]["requests"]["ephemeral-storage"]) == 4 * 2**30


def test_command_and_arguments_of_ones_own() -> None:
    worker = container(command=["python", "-u"], args=["script.py", "0"])
    assert (worker["command"], worker["args"]) == (["python", "-u"], ["script.py", "0"])


def test_groups_are_jobs_with_labels_to_find_them_by() -> None:
    objects = rendered(name="digits", groups={"gpu": {"gpus": 1}, "cpu": {"workers": 3}})
    found = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Job"}
    assert {name: item["metadata"]["labels"]["trainloom/group"] for name, item in found.items()} == {
        "digits-gpu": "gpu",
        "digits-cpu": "cpu",
    }
    pods = [item["spec"]["template"]["metadata"]["labels"] for item in found.values()]
    assert all(item["app.kubernetes.io/instance"] == "digits" for item in pods)


def test_labels_that_find_objects_cannot_be_replaced() -> None:
    objects = rendered(labels={"app.kubernetes.io/instance": "other", "team": "vision"})
    assert all(item["metadata"]["labels"]["app.kubernetes.io/instance"] == "trainloom" for item in objects)
    assert all(item["metadata"]["labels"]["team"] == "vision" for item in objects)


def test_pods_that_look_for_each_other_get_a_headless_service() -> None:
    service = next(item for item in rendered(worker={"peers": True, "workers": 2}) if item["kind"] == "Service")
    made = job(peers=True, workers=2)
    assert made["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"] == made["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= made["spec"]["template"]["metadata"]["labels"].items()


def test_code_on_a_claim_comes_before_the_images() -> None:
    objects = rendered(code={"source": "pvc", "claim": "lab-code", "folder": "src", "packages": ["retina"]})
    spec = objects[-1]["spec"]["template"]["spec"]
    assert objects[0]["data"]["TRAINLOOM_CODE_DIR"] == "/code/src"
    assert objects[0]["data"]["TRAINLOOM_ALLOWED_PACKAGES"] == "retina"
    assert variables(spec["containers"][0])["PYTHONPATH"] == "/code/src"
    assert spec["volumes"][-1] == {
        "name": "code",
        "persistentVolumeClaim": {"claimName": "lab-code", "readOnly": True},
    }
    assert spec["containers"][0]["volumeMounts"][-1] == {"name": "code", "mountPath": "/code", "readOnly": True}


def test_code_in_the_image_is_named_only() -> None:
    objects = rendered(code={"folder": "/opt/lab", "packages": ["b"]}, settings={"allowed_packages": "a, b"})
    assert objects[0]["data"]["TRAINLOOM_CODE_DIR"] == "/opt/lab"
    assert objects[0]["data"]["TRAINLOOM_ALLOWED_PACKAGES"] == "a,b"
    assert "PYTHONPATH" not in variables(objects[-1]["spec"]["template"]["spec"]["containers"][0])


def test_what_is_rendered_is_nobody_elses() -> None:
    first = rendered()
    text = to_yaml(first)
    first[-1]["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["exec"]["command"].append("x")
    first[-1]["spec"]["podFailurePolicy"]["rules"].clear()
    first[3]["rules"][0]["verbs"].clear()
    assert to_yaml(rendered()) == text


def test_the_name_of_the_last_pod_must_fit() -> None:
    assert errors(rendered(name="x" * 61, worker={"workers": 8})) == []
    (error,) = errors(rendered(name="x" * 61, worker={"workers": 110}))
    assert "shorten it to 59 characters" in error


sizes = st.integers(1, 4000).map(lambda number: f"{number}Mi")
workers = st.fixed_dictionaries(
    {},
    optional={
        "workers": st.integers(1, 500),
        "processes": st.integers(1, 8),
        "gpus": st.integers(0, 8),
        "cpus": st.one_of(st.integers(1, 64), st.sampled_from(["500m", "1.5"])),
        "shm": sizes,
        "tmp": sizes,
        "scratch": sizes,
        "env": st.dictionaries(st.from_regex(r"\A[A-Z]{1,8}\Z").map("X_{}".format), st.text(max_size=20), max_size=3),
        "queue": st.sampled_from(["a100", "Default.Queue_1"]),
        "ttl_seconds": st.one_of(st.none(), st.integers(0, 10**6)),
        "grace_seconds": st.integers(1, 10**4),
        "retries": st.integers(0, 100),
        "peers": st.booleans(),
        "watch": st.booleans(),
        "options": st.lists(st.text(max_size=10), max_size=3),
    },
)


@settings(max_examples=20, deadline=None)
@given(workers)
def test_whatever_the_values_say_is_rendered_without_an_error(worker: dict[str, Any]) -> None:
    objects = rendered(worker=worker)
    assert errors(objects) == []
    assert list(yaml.safe_load_all(to_yaml(objects))) == objects
